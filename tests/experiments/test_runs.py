"""Runs of experiments: what is trained, what is taken over, and what is refused.

The steps only add a number to the weights, and predictions are drawn from the weights' digest.
"""

import json
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from agcnn_jax.experiments import report, result, runs
from agcnn_jax.experiments.plan import EXPERIMENTS, plan
from agcnn_jax.models import registry
from agcnn_jax.run import run as experiment_module
from agcnn_jax.run.lineage import digest
from agcnn_jax.runtime.devices import device_mesh
from agcnn_jax.runtime.errors import UserError
from agcnn_jax.training import fit
from agcnn_jax.training.prediction import Prediction
from tests.training.test_start import SCORES, make_config

pytestmark = pytest.mark.usefixtures("quick_compilation")


class Killed(BaseException):
    """Ends a run as nothing that it expects does."""


class Trainings:
    """Steps that add the stage's learning rate, and the stages that they were compiled for."""

    def __init__(self):
        self.stages, self.kill_after = [], None

    def compile_step(self, experiment, schedule, *arguments):
        if len(self.stages) == self.kill_after:
            raise Killed
        self.stages.append(schedule.stage.name)

        @jax.jit
        def step(state, frozen, batch):
            rate = experiment.config.attention.tau + experiment.config.seed
            moved = jax.tree.map(lambda leaf: leaf + leaf.dtype.type(rate), state.variables)
            return state.replace(step=state.step + 1, variables=moved), {"loss": jnp.float32(1)}

        return step

    def take(self):
        taken, self.stages = self.stages, []
        return taken


@pytest.fixture(scope="module", autouse=True)
def trainings():
    def predict(step, variables, experiment, indices, *rest):
        made = {}
        for branch in variables["params"]:
            weights = {kind: tree[branch] for kind, tree in variables.items() if branch in tree}
            rng = np.random.default_rng(int(digest(jax.device_get(weights)), 16))
            made[branch] = rng.normal(size=(len(indices), 15)).astype(np.float32)
        return Prediction(made, None)

    made = Trainings()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(fit, "compile_step", made.compile_step)
        patch.setattr(fit, "make_validation", lambda *arguments: lambda *given: dict(SCORES))
        patch.setattr(result, "predict", predict)
        patch.setattr(result, "make_predict_step", lambda *arguments: None)
        patch.setattr(result, "score_localisation", lambda *arguments: None)
        patch.setattr(result, "_attention", lambda *arguments: {})
        patch.setattr(experiment_module, "device_mesh", lambda: device_mesh(jax.devices()[:1]))
        yield made


@pytest.fixture
def run(data_dir, tmp_path, trainings):
    """`run(name, seeds, rows, **changes)`: run an experiment; returns the stages trained."""
    trainings.take()

    def run(name, seeds=1, rows=(), **changes):
        config = make_config(data_dir, **changes)
        report.run_experiments(plan([name], config, seeds, rows), str(tmp_path / "w"))
        return trainings.take()

    return run


def read(folder, name):
    return json.loads((folder / "w" / name / "table.json").read_text())


G, L, F = "1_global", "2_local", "3_fusion"


@pytest.mark.slow
def test_one_global_stage_serves_every_tau_statistic_and_strategy(run, tmp_path):
    assert run("table1") == [G, L, F]
    assert run("table3") == [L, F, L, F]
    assert run("tau", rows=["0.1", "0.4"]) == [L, F]  # 0.4 is the config's own
    joint = "1_global+local+fusion"
    others = ["2_local+fusion", "1_global+local", "2_fusion", joint, "3_global+local+fusion"]
    assert run("table2") == others
    assert run("control") == [L, F, L, F, joint]
    assert run("control") == []
    rows = read(tmp_path, "table2")["backbones"]["resnet_small"]["rows"]
    assert list(rows) == list(EXPERIMENTS["table2"].rows)
    # The global branch of these is the very same.
    means = {row: of["branches"]["global"]["value"] for row, of in rows.items()}
    assert means["G_L_F"] == means["G_LF"]


@pytest.mark.slow
def test_runs_are_taken_over_whatever_their_names(run, tmp_path):
    run("table1")
    before = (tmp_path / "w/table1/table.json").read_bytes()
    folder = next((tmp_path / "w/runs").iterdir())
    folder.rename(folder.with_name("mine"))
    shutil.rmtree(tmp_path / "w/results")
    assert run("table1") == []
    assert run("tau", rows=["0.3"]) == [L, F]
    assert (tmp_path / "w/table1/table.json").read_bytes() == before


@pytest.mark.slow
def test_a_run_of_that_name_but_other_weights_is_no_donor(run, tmp_path):
    """As if the store's run had started from other weights: its stages serve no other run."""
    run("table1")
    folder = next((tmp_path / "w/runs").iterdir())
    record = json.loads((folder / "lineage.json").read_text())
    (folder / "lineage.json").write_text(json.dumps({**record, "init": "0" * 16}))
    assert run("tau", rows=["0.3"]) == [G, L, F]


@pytest.mark.slow
def test_tables_are_made_again_from_results_alone(run, tmp_path):
    rows = ["max", "l2"]
    run("table3", rows=rows)
    before = {path.name: path.read_bytes() for path in (tmp_path / "w/table3").iterdir()}
    assert {
        "table.md",
        "table.csv",
        "table.json",
        "table3_resnet_small.png",
        "table3_resnet_small.pdf",
    } == set(before)
    for name in ("runs", "table3"):
        shutil.rmtree(tmp_path / "w" / name)
    assert run("table3", rows=rows) == []
    assert {p.name: p.read_bytes() for p in (tmp_path / "w/table3").iterdir()} == before


@pytest.mark.slow
def test_killed_and_started_again_the_table_is_the_same(run, tmp_path, trainings):
    run("control")
    expected = read(tmp_path, "control")
    shutil.rmtree(tmp_path / "w")
    trainings.kill_after = 4
    with pytest.raises(Killed):
        run("control")
    trainings.kill_after = None
    trainings.take()
    assert run("control") == [F, L, F, "1_global+local+fusion"]
    assert read(tmp_path, "control") == expected


@pytest.mark.slow
def test_another_backbone_joins_the_table(run, tmp_path, monkeypatch):
    monkeypatch.setitem(registry.BACKBONES, "resnet_tiny", registry.BACKBONES["resnet_small"])
    run("table1")
    run("table1", backbone="resnet_tiny", batch_size=(16,))
    table = read(tmp_path, "table1")
    assert list(table["backbones"]) == ["resnet_small", "resnet_tiny"]
    markdown = (tmp_path / "w/table1/table.md").read_text()
    assert "resnet_small, 1 seed (0)" in markdown and "resnet_tiny, 1 seed (0)" in markdown
    # The first config's command now makes the same table.
    assert run("table1") == []
    assert read(tmp_path, "table1") == table


def test_what_does_not_belong_together_is_refused(run, tmp_path, data_dir):
    run("table1")
    files = set((tmp_path / "w").rglob("*"))
    with pytest.raises(UserError, match=r"experiments.json says .* config.learning_rate \[0.15, 0"):
        run("table1", learning_rate=(0.1,))
    with pytest.raises(
        UserError, match=r"experiments.json says .* config.attention.tau 0.4, but 0"
    ):
        run("table1", attention__tau=0.5)
    (tmp_path / "w/experiments.json").unlink()
    with pytest.raises(UserError, match=r"has config.learning_rate \(0.15.*but \(0.1,\)"):
        run("table1", learning_rate=(0.1,))
    with pytest.raises(UserError, match=r"has config.pooling 'avg', but 'max' is asked for"):
        run("tau", pooling="max")
    shutil.rmtree(tmp_path / "w/runs")
    with pytest.raises(UserError, match=r"seed0.json has config.data.split_seed 0, but 1"):
        run("table1", data__split_seed=1)
    file = next((tmp_path / "w/results").iterdir())
    content = json.loads(file.read_text())
    content["data"]["fingerprint"] = "another"
    file.write_text(json.dumps(content))
    with pytest.raises(UserError, match=r"was trained on other data: fingerprint is 'another'"):
        run("table1")
    file.write_text("{}")
    with pytest.raises(UserError, match=r"seed0.json is damaged or of another version; delete it"):
        run("table1")
    assert set((tmp_path / "w").rglob("*")) < files


def test_a_store_without_validation_is_refused(run, data_dir, tmp_path, monkeypatch):
    lists = tmp_path / "lists"
    lists.mkdir()
    names = make_records(data_dir).image_ids
    for name, chosen in (("train", names[:60]), ("test", names[60:])):
        (lists / f"{name}_list.txt").write_text("\n".join(chosen) + "\n")
    with pytest.raises(UserError, match="validation"):
        run("table1", data__protocol="lists", data__lists=str(lists))
    assert not (tmp_path / "w").exists()


def make_records(data_dir):
    from agcnn_jax.data.records import open_records

    return open_records(str(data_dir))


@pytest.mark.slow
def test_progress_says_which_run_of_how_many(run, capsys):
    run("tau", rows=["0.1", "0.3"])
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("run ")]
    assert lines[0] == "run 1 of 2: resnet_small-G_L_F-max-tau0.1-seed0"
    assert lines[1].startswith("run 2 of 2: resnet_small-G_L_F-max-tau0.3-seed0, ")


def test_time_left_is_the_mean_of_the_runs_that_are_done():
    assert report._time_left([], 4) == ""
    assert report._time_left([600.0, 1200.0], 4) == ", about 30 min left"
    assert report._time_left([20.0], 3) == ", less than 1 min left"


def test_results_are_small_and_say_what_they_belong_to(run, tmp_path):
    run("table1")
    (path,) = (tmp_path / "w/results").iterdir()
    content = json.loads(path.read_text())
    assert path.stat().st_size < 100_000
    assert content["config"]["seed"] == 0 and content["data"]["protocol"] == "random"
    assert set(content["weights"]) == {"global", "local", "fusion"}
    assert content["lineage"] and content["init"] is None
    copied = path.with_name("copy.json")
    copied.write_text(path.read_text())
    with pytest.raises(UserError, match=r"seed0.json and .*copy.json are of the same run"):
        run("table1")


@pytest.mark.slow
def test_later_rows_and_seeds_join_the_table(run, tmp_path):
    run("table3", rows=["l1"])
    run("table3", rows=["max"], seeds=2)
    table = read(tmp_path, "table3")["backbones"]["resnet_small"]
    assert list(table["rows"]) == ["max", "l1"] and table["seeds"] == [0, 1]
    assert (table["rows"]["max"]["seeds"], table["rows"]["l1"]["seeds"]) == ([0, 1], [0])
    assert table["rows"]["l1"]["minus reference"]["fusion"]["seeds"] == 1
    text = (tmp_path / "w/table3/table.md").read_text()
    assert "Not all rows have all seeds: l1 with seeds 0." in text


@pytest.mark.slow
def test_other_batches_of_a_backbone_have_a_table_and_a_file_of_their_own(run, tmp_path):
    run("table1")
    shutil.rmtree(tmp_path / "w/runs")
    run("table1", batch_size=(4,))
    assert len(list((tmp_path / "w/results").iterdir())) == 2
    names = list(read(tmp_path, "table1")["backbones"])
    assert names == ["resnet_small batch_size=(4,)", "resnet_small batch_size=(8,)"]


def test_other_weights_under_one_name_are_refused(run, tmp_path, monkeypatch):
    run("table1")
    (path,) = (tmp_path / "w/results").iterdir()
    content = json.loads(path.read_text())
    content["config"]["init"], content["init"] = "weights/other", "1" * 16
    content["config"]["init_normalisation"] = "config"
    path.write_text(json.dumps(content))
    monkeypatch.setattr(runs, "read_init", lambda experiment: ({"params": np.zeros(3)}, None))
    with pytest.raises(UserError, match=r"config.init weights/other holds other weights"):
        run("table1", seeds=2, init="weights/other")
    content["init"], content["config"]["seed"] = "2" * 16, 5
    path.with_name("second.json").write_text(json.dumps(content))
    with pytest.raises(UserError, match=r"second.json started from other weights"):
        run("table1")


def test_files_of_others_are_left_alone(run, tmp_path):
    thesis = tmp_path / "w/table1/thesis.tex"
    thesis.parent.mkdir(parents=True)
    thesis.write_text("all my work")
    with pytest.raises(UserError, match="table1 holds other files than a table"):
        run("table1")
    assert thesis.read_text() == "all my work"
    (tmp_path / "w/config.json").write_text("{}")
    with pytest.raises(UserError, match=r"is a run of train\.py"):
        run("table1")
