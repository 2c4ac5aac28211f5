import itertools

import pytest

from agcnn_jax.config.keys import flatten
from agcnn_jax.config.strategies import stages
from agcnn_jax.configs import resnet
from agcnn_jax.experiments.plan import (
    EXPERIMENTS,
    NAMES,
    VARIED,
    PlannedRun,
    check_overruled,
    plan,
)
from agcnn_jax.models.agcnn import BRANCHES
from agcnn_jax.run.takeover import stage_values
from agcnn_jax.runtime.errors import UserError
from tests.configs import demo
from tests.support.programs import ROOT


def test_every_key_that_a_row_sets_may_differ_within_a_workdir():
    changed = {key for e in EXPERIMENTS.values() for row in e.rows.values() for key in row}
    assert changed | {"seed"} == set(VARIED)


def test_rows_are_the_paper_s():
    assert list(EXPERIMENTS["table2"].rows) == ["G_L_F", "G_LF", "GL_F", "GLF", "G_L_F*"]
    assert list(EXPERIMENTS["table3"].rows) == ["max", "l1", "l2"]
    assert [float(row) for row in EXPERIMENTS["tau"].rows] == [i / 10 for i in range(1, 10)]
    assert {e.reference for e in EXPERIMENTS.values() if e.reference} <= {
        row for e in EXPERIMENTS.values() for row in e.rows
    }
    assert NAMES == ("table1", "table2", "table3", "control", "tau", "detail", "all")


def test_a_plan_has_every_row_and_seed_with_the_keys_that_the_row_sets():
    runs = plan(["control"], demo.get_config(), seeds=2)
    rows = EXPERIMENTS["control"].rows
    assert [(run.row, run.config.seed) for run in runs] == [
        (row, seed) for seed, row in itertools.product(range(2), rows)
    ]
    for run in runs:
        values = flatten(run.config.to_dict())
        assert {key: values[key] for key in rows[run.row]} == rows[run.row]
        assert values["seed"] == run.config.seed


def test_the_config_is_left_alone():
    config = demo.get_config()
    plan(["tau"], config, seeds=1)
    assert config == demo.get_config()


def test_keys_that_a_run_does_not_read_are_no_part_of_it():
    runs = {run.row: run for run in plan(["control"], demo.get_config(), seeds=1)}
    assert "attention.tau" in runs["centred crop"].values
    assert not [key for key in runs["whole image"].values if key.startswith("attention")]
    # tau does not distinguish runs that do not attend.
    config = demo.get_config()
    config.attention.tau = 0.2
    again = {run.row: run for run in plan(["control"], config, seeds=1)}
    assert again["whole image"].values == runs["whole image"].values
    assert again["attended region"].values != runs["attended region"].values


def test_names_of_different_runs_differ():
    runs = [run for name in EXPERIMENTS for run in plan([name], demo.get_config(), seeds=2)]
    by_name = {run.name: run.values for run in runs}
    assert all(by_name[run.name] == run.values for run in runs)
    assert len(by_name) == 2 * (1 + 4 + 2 + 3 + 8 + 1)  # a row that is the base counts once


def test_only_the_rows_asked_for():
    runs = plan(["tau"], demo.get_config(), seeds=2, only=["0.1", "0.7"])
    assert [run.row for run in runs] == ["0.1", "0.7"] * 2
    with pytest.raises(UserError, match=r"--rows names '0.15'; tau has 0.1, 0.2"):
        plan(["tau"], demo.get_config(), seeds=2, only=["0.15"])
    with pytest.raises(UserError, match=r"--rows names ''; table1 has no rows to choose from"):
        plan(["table1"], demo.get_config(), seeds=2, only=[""])


def test_overrides_that_no_run_reads_are_refused():
    def check(name, **overrides):
        config = demo.get_config()
        config.update_from_flattened_dict(overrides)
        check_overruled(plan([name], config, seeds=1), overrides)

    check("table1", **{"attention.tau": 0.5, "learning_rate": (0.1,), "log_every": 5})
    check("control", **{"attention.tau": 0.5})  # three of four rows ignore it, one does not
    check("table2", **{"attention.cropper": "device"})
    with pytest.raises(UserError, match=r"--config.attention.tau has no effect on tau"):
        check("tau", **{"attention.tau": 0.5})
    with pytest.raises(UserError, match=r"--config.strategy has no effect on table1"):
        check("table1", strategy="GLF")
    with pytest.raises(UserError, match=r"--config.eval.crops has no effect on experiments"):
        check("table1", **{"eval.crops": "ten"})
    with pytest.raises(UserError, match="give --seeds instead"):
        check("table1", seed=4)


def test_a_run_keeps_its_values_whatever_the_experiment():
    config = demo.get_config()
    values = [plan([name], config, seeds=1)[0].values for name in ("table1", "table2", "control")]
    assert values[0] == values[1] == values[2]
    assert isinstance(plan(["table1"], config, seeds=1)[0], PlannedRun)


def test_docs_count_the_runs_and_steps_of_each_experiment():
    """On 70 % of ChestX-ray14, with the paper's batches and epochs."""
    text, config = (ROOT / "docs/experiments.md").read_text(), resnet.get_config()
    sizes = zip(BRANCHES, (128, 64, 64), strict=True)
    per_epoch = {branch: 78_484 // size for branch, size in sizes}
    runs, done = [], []
    for name in EXPERIMENTS:
        before, steps = len(runs), 0
        for run in plan([name], config, seeds=1):
            if run.values in runs:
                continue
            runs.append(run.values)
            for count, stage in enumerate(stages(run.config.strategy), start=1):
                key = stage.branches, stage_values(flatten(run.config.to_dict()), count)
                if key not in done:
                    done.append(key)
                    steps += 50 * max(per_epoch[branch] for branch in stage.branches)
        assert f"| `{name}` | {len(runs) - before} | {steps:,} |" in text
    assert f"| `all` | {len(runs)} | " in text
