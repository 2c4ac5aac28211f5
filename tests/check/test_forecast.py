"""Hours and bytes of a run, worked out by hand."""

import pytest

from agcnn_jax.check.forecast import Plan, bytes_to_write, forecast, plan, stage_seconds

MEASURED = {
    "first_batch": 1.0,
    "compile_again": 4.0,
    "fed": 0.5,
    "validation": {"first": 9.0, "first_again": 3.0, "all": 10.0},
    "checkpoint_bytes": 1_000_000_000,
    "checkpoint": {"training_waits": 2.0, "write": 15.0, "read": 6.0},
}


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        # Ends of epochs at 10, 20, 30; regular checkpoints at 4, 8, ... 28, of which 20 is an end.
        ((30, 10, 4), Plan("a", 30, 3, 6)),
        ((25, 10, 5), Plan("a", 25, 3, 2)),  # max_steps ends the last epoch early
        ((30, 10, 500), Plan("a", 30, 3, 0)),
        ((5, 10, 1), Plan("a", 5, 1, 4)),
    ],
)
def test_epochs_and_checkpoints_of_a_stage(arguments, expected):
    assert plan("a", *arguments) == expected


def test_seconds_of_a_stage():
    assert stage_seconds(Plan("a", 100, 4, 3), MEASURED) == {
        "start": 8.0,
        "steps": 50.0,
        "validation": 40.0,
        # Training waits 2 s for each of 7; each epoch's is written 3 s longer than it is validated.
        "checkpoints": 7 * 2.0 + 4 * 3.0,
    }
    slow = MEASURED | {"validation": {"first": 0.0, "first_again": 0.0, "all": 30.0}}
    assert stage_seconds(Plan("a", 100, 4, 3), slow)["checkpoints"] == 14.0


def test_a_run():
    second = {key: value for key, value in MEASURED.items() if key != "checkpoint"}
    plans = [Plan("a", 100, 4, 3), Plan("b", 200, 1, 0)]
    part = forecast(plans, {"a": MEASURED, "b": second | {"compile_again": 11.5}}, opening=8.0)
    figures = part.figures
    assert figures["hours_by_stage"] == {"a": 124 / 3600, "b": (15.5 + 100 + 10) / 3600}
    assert figures["hours"] == pytest.approx((8 + 124 + 125.5) / 3600)
    assert figures["validation_hours"] == 50 / 3600
    assert figures["checkpoints_gigabytes"] == 4.0
    assert figures["restart_seconds"] == 8 + 12.5
    assert part.lines[0].startswith("the run takes 4 min: a 2 min, b 2 min; 50 s of it validation")
    assert part.failures == ()


def test_bytes_that_are_still_to_be_written():
    sizes = {"a": 10, "b": 30}
    assert bytes_to_write(sizes, []) == 2 * 40 + 30
    assert bytes_to_write(sizes, ["a"]) == 60 + 30
    assert bytes_to_write(sizes, ["a", "b"]) == 30
