"""Starting weights and lineage, over several runs, stages and evaluations.

The steps of these runs only add a number to the weights: what is tested is what runs record and
compare.
"""

import contextlib
import json
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from etils import epath

from agcnn_jax.config.saved import read_json
from agcnn_jax.evaluation import evaluate as evaluation
from agcnn_jax.evaluation.figures import files as figures
from agcnn_jax.evaluation.results_directory import results_directory
from agcnn_jax.evaluation.scoring.cohort import check_overlap
from agcnn_jax.interop.weights import save_weights
from agcnn_jax.models.agcnn import BRANCHES
from agcnn_jax.run import lineage
from agcnn_jax.run import run as experiment_module
from agcnn_jax.run.lineage import NOTHING, Lineage, lineage_of
from agcnn_jax.run.run import open_run
from agcnn_jax.run.stage_results import finished_variables
from agcnn_jax.runtime import processes
from agcnn_jax.runtime.devices import device_mesh
from agcnn_jax.runtime.errors import UserError
from agcnn_jax.runtime.workdir_lock import FILE as LOCK
from agcnn_jax.training import fit, loop
from agcnn_jax.training.loop import train
from agcnn_jax.training.prediction import Prediction
from agcnn_jax.training.start import _draw, parameter_table
from tests.configs import demo

pytestmark = pytest.mark.usefixtures("quick_compilation")

STAGES = ("1_global", "2_local", "3_fusion")
SCORES = {"val_auc_mean": 0.5, "val_auc_findings": 14, "val_auc": {}}


class Step:
    """Training that adds `amount` to all weights in every step, and validation without a model."""

    amount = 0.5

    def __call__(self, *arguments):
        amount = self.amount

        @jax.jit
        def step(state, frozen, batch):
            moved = jax.tree.map(lambda leaf: leaf + leaf.dtype.type(amount), state.variables)
            return state.replace(step=state.step + 1, variables=moved), {"loss": jnp.float32(1)}

        return step


@pytest.fixture(scope="module", autouse=True)
def step():
    def predict(predict_step, variables, experiment, indices, *rest, **options):
        rows = np.random.default_rng(0).random((len(indices), 15), np.float32)
        return Prediction(dict.fromkeys(variables["params"], rows), None)

    step = Step()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(fit, "compile_step", step)
        patch.setattr(fit, "make_validation", lambda *arguments: lambda *given: dict(SCORES))
        patch.setattr(evaluation, "predict", predict)
        patch.setattr(figures, "files", lambda evaluation: {})
        patch.setattr(evaluation, "score_localisation", lambda *arguments: None)
        patch.setattr(experiment_module, "device_mesh", lambda: device_mesh(jax.devices()[:1]))
        yield step


@pytest.fixture
def make(data_dir, tmp_path):
    """`make(**changes)`: a config of a quick run on the phantoms."""
    return lambda **changes: make_config(data_dir, **changes)


def make_config(data_dir, **changes):
    config = demo.get_config()
    config.data.dir = str(data_dir)
    config.data.protocol = "random"
    config.data.allow_unlisted = True
    config.input_size = 56
    config.batch_size = (8,)
    config.eval_batch_size = 8
    config.max_steps = 1
    config.attention.cropper = "device"
    config.update_from_flattened_dict({key.replace("__", "."): v for key, v in changes.items()})
    return config


@pytest.fixture(scope="module")
def trained(data_dir, step, tmp_path_factory):
    """A run that was trained on the phantoms with the random protocol."""
    workdir = tmp_path_factory.mktemp("trained") / "run"
    train(make_config(data_dir), str(workdir))
    return workdir


@pytest.fixture
def run(trained, tmp_path):
    """A copy of that run."""
    shutil.copytree(trained, tmp_path / "run")
    return tmp_path / "run"


def opened(config, workdir="/nowhere"):
    return open_run(config, epath.Path(workdir))


def names(experiment, subset):
    return set(experiment.records.image_ids[getattr(experiment.split, subset)])


def patients(experiment, subset):
    return set(experiment.records.patient_ids[getattr(experiment.split, subset)])


def refusal(action, *arguments, **options):
    with pytest.raises(UserError) as error:
        action(*arguments, **options)
    return str(error.value)


def files_of(folder):
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def retrain(config, workdir, stage, step, amount):
    """Delete a stage, train it again with other steps, and put the later ones back."""
    later = [name for name in STAGES if name > stage]
    for name in later:
        (workdir / "stages" / name).rename(workdir / name)
    shutil.rmtree(workdir / "stages" / stage)
    old, step.amount = step.amount, amount
    try:
        train(config, str(workdir))
    finally:
        step.amount = old
    for name in later:
        shutil.rmtree(workdir / "stages" / name)
        (workdir / name).rename(workdir / "stages" / name)


class TestThresholdsFromValidation:
    @pytest.fixture
    def predicted(self, monkeypatch):
        """The subsets that are predicted, in order."""
        subsets, predict = [], evaluation.predict

        def note(step, variables, experiment, indices, subset, **options):
            subsets.append(subset)
            return predict(step, variables, experiment, indices, subset, **options)

        monkeypatch.setattr(evaluation, "predict", note)
        return subsets

    def test_are_chosen_once_for_the_same_weights(self, make, run, predicted):
        validation = opened(make()).split.validation
        evaluation.evaluate(make(), str(run), {})
        assert predicted == ["test", "validation"]
        written = (run / "calibration.json").read_text()
        metrics = json.loads((run / "eval/test/metrics.json").read_text())
        assert metrics["validation"]["images"] == len(validation)
        table = evaluation.evaluate(make(), str(run), {}, "train")
        assert predicted == ["test", "validation", "train"]
        assert f"numbers come from {len(validation)} validation images of" in table
        # As if another stage 3 had been trained since.
        record = json.loads(written)
        record["weights"]["fusion"] = "0" * 16
        (run / "calibration.json").write_text(json.dumps(record))
        evaluation.evaluate(make(), str(run), {})
        assert predicted[3:] == ["test", "validation"]
        assert (run / "calibration.json").read_text() == written

    def test_of_the_scored_images_flatter(self, make, run, predicted):
        table = evaluation.evaluate(make(), str(run), {}, "validation")
        assert predicted == ["validation"]
        assert "these are the scored images" in table
        assert (run / "calibration.json").exists()

    def test_are_never_chosen_on_another_split(self, make, run, predicted):
        config, overrides = make(data__protocol="patient"), {"data.protocol": "patient"}

        def score():
            return evaluation.evaluate(config, str(run), overrides, include_trained=True)

        assert "run's own split, which has not been evaluated." in score()
        assert not (run / "calibration.json").exists()
        evaluation.evaluate(make(), str(run), {})
        assert "they are those of the run's own split" in score()
        assert predicted == ["test", "test", "validation", "test"]


class TestScoringWhatWasTrainedOn:
    """Leakage is counted against what a run was trained on, not against the split of the day."""

    def test_another_protocol(self, make, run):
        ours, theirs = (
            opened(make()),
            opened(make(data__protocol="patient")),
        )
        overlap = names(ours, "train") & names(theirs, "test")
        assert 0 < len(overlap) < len(names(theirs, "test"))
        config, overrides = make(data__protocol="patient"), {"data.protocol": "patient"}
        before = files_of(run)
        text = refusal(evaluation.evaluate, config, str(run), overrides)
        assert f"was trained on {len(overlap)} of the {len(theirs.split.test)} images" in text
        assert "--include_trained" in text
        assert files_of(run) == before

        table = evaluation.evaluate(config, str(run), overrides, include_trained=True)
        assert f"Images trained on: {len(overlap)} of {len(theirs.split.test)};" in table
        assert [path.name for path in (run / "eval").iterdir()] == ["test_patient"]
        scores = json.loads((run / "eval/test_patient/auc.json").read_text())
        shared = patients(ours, "train") & patients(theirs, "test")
        assert scores["trained_images"] == len(overlap)
        assert scores["shared_patients"] == len(shared)
        assert scores["lineage_complete"] is True
        for name in ("auc.md", "report.html"):
            page = (run / "eval/test_patient" / name).read_text()
            assert f"Images trained on: {len(overlap)} of" in page
            assert f"shared with training: {len(shared)} of" in page

    def test_its_own_test_set(self, make, run):
        table = evaluation.evaluate(make(), str(run), {})
        experiment = opened(make())
        shared = patients(experiment, "train") & patients(experiment, "test")
        assert shared
        assert "Images trained on: 0 of" in table
        assert f"shared with training: {len(shared)} of" in table
        scores = json.loads((run / "eval/test/auc.json").read_text())
        assert (scores["trained_images"], scores["shared_patients"]) == (0, len(shared))

    def test_the_training_subset_is_scored_unasked(self, make, trained):
        experiment = opened(make(), trained)
        overlap = check_overlap(
            experiment,
            lineage.read(trained)[0],
            "--workdir",
            "train",
            experiment.split.train,
            False,
        )
        assert overlap.images == len(experiment.split.train)

    def test_what_is_not_known_is_not_nothing(self, make, tmp_path):
        experiment, run = opened(make()), tmp_path / "run"
        seen = Lineage({}, frozenset({experiment.records.collection}))
        config = make(init=converted(tmp_path / "weights", make(), seen))
        train(config, str(run))
        table = evaluation.evaluate(config, str(run), {})
        shared = patients(experiment, "train") & patients(experiment, "test")
        assert "Images trained on: not known; patients shared with training: at least " in table
        scores = json.loads((run / "eval/test/auc.json").read_text())
        assert (scores["trained_images"], scores["shared_patients"]) == (None, len(shared))
        assert scores["lineage_complete"] is False

    def test_a_run_that_does_not_say(self, make, run):
        (run / "lineage.json").unlink()
        for action in (
            lambda: evaluation.evaluate(make(), str(run), {}),
            lambda: train(make(), str(run)),
        ):
            assert "lineage.json is missing" in refusal(action)


def test_no_images_are_scored_in_the_folder_of_others(make, run, data_dir, tmp_path):
    other = tmp_path / "other"
    shutil.copytree(data_dir, other)
    [metadata] = other.rglob("metadata.json")
    about = json.loads(metadata.read_text())
    metadata.write_text(json.dumps({**about, "fingerprint": "0123456789abcdef"}))

    def folder(subset="test", **changes):
        """Pretend to evaluate."""
        experiment = opened(make(**changes), run)
        directory = results_directory(experiment, subset)
        directory.mkdir(parents=True, exist_ok=True)
        about = {"images_digest": experiment.split.digests[subset]}
        (directory / "auc.json").write_text(json.dumps(about))
        return directory.relative_to(run / "eval").as_posix()

    assert folder() == "test"
    assert folder("validation") == "validation"
    assert folder(data__protocol="patient") == "test_patient"
    assert folder(eval__crops="ten") == "test_ten_crops"
    assert folder(eval__crops="ten", data__protocol="patient") == "test_patient_ten_crops"
    assert folder(data__protocol="official") == "test_official"
    assert folder(data__dir=str(other)) == "test_random_01234567"
    assert folder(data__dir=str(other), data__protocol="patient") == "test_patient_01234567"
    seeds = [folder(data__split_seed=seed) for seed in (1, 2, 3)]
    assert seeds[0] == "test_random"
    assert all(name.startswith("test_random_") for name in seeds[1:])
    assert len(set(seeds)) == 3
    # The same again goes to the same place.
    assert [folder(data__split_seed=seed) for seed in (3, 1, 2)] == [seeds[i] for i in (2, 0, 1)]
    assert folder() == "test"


def write_lists(folder, **lists):
    folder.mkdir()
    for subset, images in lists.items():
        (folder / f"{subset}_list.txt").write_text("\n".join(images))
    return str(folder)


class TestStartingFromAnotherRun:
    def test_whose_images_are_in_the_test_subset(self, make, trained, tmp_path):
        config = make(init=f"{trained}/stages/1_global", data__protocol="patient")
        theirs = names(opened(make()), "train")
        ours = names(opened(config), "test")
        text = refusal(train, config, str(tmp_path / "new"))
        assert f"was trained on {len(theirs & ours)} of the {len(ours)} images" in text
        assert not (tmp_path / "new").exists()

    def test_of_the_same_split(self, make, trained, tmp_path, capsys):
        config = make(init=f"{trained}/stages/1_global")
        train(config, str(tmp_path / "new"))
        experiment = opened(config)
        shared = patients(experiment, "train") & patients(experiment, "test")
        said = capsys.readouterr().out
        assert f"images trained on: 0 of {len(experiment.split.test)};" in said
        assert f"patients shared with training: {len(shared)} of" in said

    @pytest.mark.slow
    def test_that_started_from_a_third(self, make, tmp_path):
        """What it saw is inherited over any number of steps."""
        parts = np.array_split(opened(make()).records.image_ids, 5)
        seen, init = set(), "random"
        for number in range(3):
            lists = write_lists(
                tmp_path / f"lists{number}", train=parts[number], val=parts[3], test=parts[4]
            )
            config = make(init=init, data__protocol="lists", data__lists=lists)
            train(config, str(tmp_path / f"run{number}"))
            init = f"{tmp_path}/run{number}/stages/1_global"
            seen |= set(parts[number])
            kept, digest = lineage.read(epath.Path(tmp_path) / f"run{number}")
            [images] = kept.seen.values()
            assert set(images) == seen
            assert (digest is None) == (number == 0)
        lists = write_lists(tmp_path / "last", train=parts[3], val=parts[4], test=parts[0])
        config = make(init=init, data__protocol="lists", data__lists=lists)
        text = refusal(train, config, str(tmp_path / "new"))
        assert f"was trained on {len(parts[0])} of the {len(parts[0])} images" in text

    def test_that_is_not_beside_its_stage(self, make, trained, tmp_path, capsys):
        shutil.copytree(trained / "stages/1_global", tmp_path / "alone")
        train(make(init=str(tmp_path / "alone"), max_steps=1), str(tmp_path / "new"))
        assert "images trained on: not known;" in capsys.readouterr().out

    def test_that_lies_in_the_folder_of_another(self, make, trained, tmp_path, capsys):
        """Which was trained on other images, and says nothing of those of the stage."""
        train(make(data__split_seed=1), str(tmp_path / "other"))
        shutil.copytree(trained / "stages/1_global", tmp_path / "other/stages/copy")
        capsys.readouterr()
        train(make(init=f"{tmp_path}/other/stages/copy"), str(tmp_path / "new"))
        assert "images trained on: not known;" in capsys.readouterr().out

    def test_of_another_normalisation(self, make, trained, tmp_path):
        config = make(init=f"{trained}/stages/1_global", std=(1 / 2048,))
        text = refusal(train, config, str(tmp_path / "new"))
        assert "--config.mean='(0.5,)' --config.std='(0.25,)'" in text
        assert "--config.init_normalisation=own" in text
        config.init_normalisation = "own"
        train(config, str(tmp_path / "new"))


def converted(folder, config, seen=NOTHING, std=(0.25,), seed=7):
    """Weights as `data_prep/torch_weights.py` writes them, with another pooling."""
    recipe = opened(config).recipe
    about = {"backbone": "resnet_small", "channels": 1, "branches": list(BRANCHES)}
    about |= {"classes": None, "pooling": "max", "mean": [0.5], "std": list(std)}
    about["lineage"] = seen.to_json()
    variables = _draw(recipe.model, jax.random.key(seed), recipe.input_size)
    save_weights(folder, jax.device_get(variables), about)
    return str(folder)


class TestStartingFromConvertedWeights:
    def test_that_were_trained_on_images_of_the_test_subset(self, make, tmp_path):
        experiment = opened(make())
        listed = sorted(names(experiment, "test"))[:3]
        seen = lineage_of(experiment.records.collection, listed, [""] * 3, synthetic=True)
        init = converted(tmp_path / "weights", make(), seen)
        text = refusal(train, make(init=init), str(tmp_path / "new"))
        assert f"was trained on 3 of the {len(experiment.split.test)} images" in text
        assert not (tmp_path / "new").exists()

    def test_of_which_nothing_is_known(self, make, tmp_path, capsys):
        init = converted(tmp_path / "weights", make(), lineage.UNKNOWN)
        train(make(init=init), str(tmp_path / "new"))
        said = capsys.readouterr().out
        assert "images trained on: not known; patients shared with training: at least" in said

    def test_of_another_normalisation(self, make, tmp_path):
        init = converted(tmp_path / "weights", make(), std=(1 / 2048,))
        text = refusal(train, make(init=init), str(tmp_path / "new"))
        assert f"--config.mean='(0.5,)' --config.std='({1 / 2048},)'" in text
        assert not (tmp_path / "new").exists()
        train(make(init=init, init_normalisation="own"), str(tmp_path / "new"))

    @pytest.mark.slow
    def test_that_are_replaced(self, make, tmp_path):
        init = converted(tmp_path / "weights", make())
        config, workdir = make(init=init), tmp_path / "new"
        train(config, str(workdir))
        shutil.rmtree(init)
        # Nothing is left to start from them.
        train(config, str(workdir))
        evaluation.evaluate(config, str(workdir), {})
        shutil.rmtree(workdir / "stages/3_fusion")
        train(config, str(workdir))
        # The local branch starts from them, too.
        shutil.rmtree(workdir / "stages/3_fusion")
        shutil.rmtree(workdir / "stages/2_local")
        assert init in refusal(train, config, str(workdir))
        converted(tmp_path / "weights", config, seed=8)
        before = files_of(workdir)
        text = refusal(train, config, str(workdir))
        assert init in text and str(workdir) in text and "digest" in text
        assert files_of(workdir) == before
        shutil.rmtree(init)
        converted(tmp_path / "weights", config)
        train(config, str(workdir))

    def test_that_are_replaced_while_the_training_waits(self, make, tmp_path, monkeypatch):
        config, workdir = make(init=converted(tmp_path / "weights", make())), tmp_path / "new"
        train(config, str(tmp_path / "first"))
        shutil.rmtree(config.init)
        converted(tmp_path / "weights", config, seed=8)

        @contextlib.contextmanager
        def lock_workdir(*arguments):
            shutil.copytree(tmp_path / "first", workdir)
            shutil.rmtree(workdir / "stages")
            yield

        monkeypatch.setattr(loop, "lock_workdir", lock_workdir)
        text = refusal(train, config, str(workdir))
        assert config.init in text and "digest" in text
        assert not (workdir / "stages").exists()


class TestAStageOfAnotherRun:
    """Which says itself what it was trained on."""

    @pytest.fixture
    def mixed(self, make, run, tmp_path):
        """A run whose stages are those of a run on other images."""
        train(make(data__split_seed=1), str(tmp_path / "mixed"))
        shutil.rmtree(tmp_path / "mixed/stages")
        shutil.copytree(run / "stages", tmp_path / "mixed/stages")
        return tmp_path / "mixed"

    def test_that_is_finished(self, make, mixed):
        before = files_of(mixed)
        for action in (
            lambda: train(make(data__split_seed=1), str(mixed)),
            lambda: evaluation.evaluate(make(), str(mixed), {}),
            lambda: finished_variables(epath.Path(mixed), "G_L_F", {}),
        ):
            text = refusal(action)
            assert f"{mixed}/stages/1_global was trained on other images" in text
            assert f"delete {mixed}/stages/1_global and, beside it, 2_local and 3_fusion" in text
        assert files_of(mixed) == before

    def test_that_is_not_finished(self, make, mixed):
        (mixed / "stages/1_global/result.json").unlink()
        text = refusal(train, make(data__split_seed=1), str(mixed))
        assert f"{mixed}/stages/1_global was trained on other images" in text

    def test_as_whose_the_next_config_would_have_it(self, make, run):
        (run / "config.json").unlink()
        before = files_of(run)
        text = refusal(train, make(data__split_seed=1), str(run))
        assert f"--workdir {run} holds trained stages without the config.json" in text
        assert files_of(run) == before


def test_a_finished_run_need_not_be_writable(make, run, capsys):
    (run / LOCK).mkdir()  # nobody, whatever their rights, can lock it
    before = files_of(run)
    train(make(), str(run))
    assert capsys.readouterr().out.endswith(f"training in {run} is complete: nothing left to do\n")
    assert files_of(run) == before


class TestAStageThatIsTrainedAgain:
    """Later stages that were trained from what it was before are refused."""

    def test_with_another_outcome(self, make, run, step):
        retrain(make(), run, "1_global", step, amount=0.25)
        before = files_of(run / "stages")
        for action in (
            lambda: train(make(), str(run)),
            lambda: evaluation.evaluate(make(), str(run), {}),
            lambda: finished_variables(epath.Path(run), "G_L_F", {}),
        ):
            text = refusal(action)
            assert f"delete {run}/stages/2_local and, beside it, 3_fusion and run" in text
            assert files_of(run / "stages") == before
        # What it says works.
        for name in STAGES[1:]:
            shutil.rmtree(run / "stages" / name)
        train(make(), str(run))
        evaluation.evaluate(make(), str(run), {})

    def test_in_the_middle_of_the_next(self, make, run, step):
        """Whose checkpoints say what they were begun from."""
        retrain(make(), run, "1_global", step, amount=0.25)
        for name in STAGES[1:]:
            (run / "stages" / name / "result.json").unlink()
        text = refusal(train, make(), str(run))
        assert f"delete {run}/stages/2_local and, beside it, 3_fusion and run" in text

    def test_with_the_same_outcome(self, make, run, step, capsys):
        shutil.rmtree(run / "stages/2_local")
        train(make(), str(run))
        assert "3_fusion began with a stage that is no longer there" in capsys.readouterr().out
        evaluation.evaluate(make(), str(run), {})

    def test_the_middle_one(self, make, run, step):
        retrain(make(), run, "2_local", step, amount=0.25)
        text = refusal(evaluation.evaluate, make(), str(run), {})
        assert f"{run}/stages/3_fusion was trained from a local branch with digest" in text
        assert f"delete {run}/stages/3_fusion and run" in text

    def test_but_only_its_checkpoints_are_put_back(self, make, run, step, tmp_path):
        shutil.copytree(run, tmp_path / "other")
        retrain(make(), tmp_path / "other", "3_fusion", step, amount=0.25)
        shutil.rmtree(run / "stages/3_fusion/checkpoints")
        shutil.move(tmp_path / "other/stages/3_fusion/checkpoints", run / "stages/3_fusion")
        text = refusal(evaluation.evaluate, make(), str(run), {})
        assert f"delete {run}/stages/3_fusion and run" in text


@pytest.mark.parametrize(
    "fact",
    [
        *("data fingerprint", "data train_digest", "data test_digest"),
        *("weights in config.init", "what they were trained on"),
    ],
)
def test_processes_agree_on_what_they_start_from(make, monkeypatch, tmp_path, fact):
    """Here the other process is one that only says what it has."""

    def exchange(value):
        described = isinstance(value, dict) and fact in value
        return [value, {**value, fact: "other"} if described else value]

    monkeypatch.setattr(processes, "process_share", lambda: (0, 2))
    monkeypatch.setattr(processes, "exchange", exchange)
    text = refusal(train, make(), str(tmp_path / "new"))
    assert f"process 1 differs from process 0 in {fact}: 'other' instead of" in text
    assert not (tmp_path / "new").exists()


def test_records_are_small_and_complete(trained, make):
    experiment = opened(make())
    record = json.loads((trained / "lineage.json").read_text())
    train_subset = experiment.split.train
    assert record["seen"] == {
        experiment.records.collection: dict(
            zip(
                experiment.records.image_ids[train_subset],
                experiment.records.patient_ids[train_subset],
                strict=True,
            )
        )
    }
    assert (trained / "lineage.json").read_text().count("\n") == 1
    assert read_json(epath.Path(trained) / "data.json") == json.loads(
        json.dumps(experiment.data_summary)
    )


VARIABLES = {
    "params": {
        "global": {"backbone": {"conv": {"kernel": np.zeros((3, 3, 1, 64))}}},
        "fusion": {"head": {"bias": np.zeros(15), "kernel": np.zeros((4096, 15))}},
    },
    "batch_stats": {"global": {"backbone": {"mean": np.zeros(64)}}, "fusion": {}},
}


def test_parameters_with_totals():
    assert parameter_table(VARIABLES).splitlines() == [
        "parameter                    shape      count",
        "global/backbone/conv/kernel  3x3x1x64     576",
        "global, total                             576",
        "fusion/head/bias             15            15",
        "fusion/head/kernel           4096x15   61,440",
        "fusion, total                          61,455",
        "all branches                           62,031",
    ]


def test_parameters_from_shapes_alone():
    shapes = jax.eval_shape(lambda: jax.tree.map(jnp.asarray, VARIABLES))
    assert parameter_table(shapes) == parameter_table(VARIABLES)
