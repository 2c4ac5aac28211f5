"""metrics.jsonl and TensorBoard's file hold every line once, whatever stopped the run."""

import json
import os

import pytest
from etils import epath
from tensorboardX.proto.event_pb2 import Event

from agcnn_jax.runtime.errors import UserError
from agcnn_jax.training import log as module
from agcnn_jax.training.log import MetricsLog


def lines(workdir):
    return [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]


def events(folder):
    """All events of a folder: the records of TensorBoard's files, in order."""
    found = []
    for path in sorted(folder.iterdir(), key=lambda path: path.stat().st_mtime_ns):
        content = path.read_bytes()
        while content:
            size = int.from_bytes(content[:8], "little")
            found.append(Event.FromString(content[12 : 12 + size]))
            content = content[16 + size :]
    return found


def scalars(folder):
    return [
        (event.step, value.tag, round(value.simple_value, 4))
        for event in events(folder)
        for value in event.summary.value
    ]


def test_write_puts_a_line_on_disk_at_once(tmp_path):
    log = MetricsLog(epath.Path(tmp_path), "1_global", 0)
    log.write(2, loss=0.5, note="x")
    assert lines(tmp_path) == [{"stage": "1_global", "step": 2, "loss": 0.5, "note": "x"}]
    log.flush()
    # Numbers only.
    assert scalars(tmp_path / "events/1_global") == [(2, "loss", 0.5)]
    log.write(4, loss=0.25)
    log.close()
    assert scalars(tmp_path / "events/1_global") == [(2, "loss", 0.5), (4, "loss", 0.25)]


def test_lines_of_repeated_steps_are_dropped(tmp_path):
    for stage, steps in (("1_global", (2, 4)), ("2_local", (2, 4, 6))):
        log = MetricsLog(epath.Path(tmp_path), stage, 0)
        for step in steps:
            log.write(step, loss=1.0)
        log.close()
    with open(tmp_path / "metrics.jsonl", "ab") as file:
        file.write(b'[1]\n{"a": 1}\n\xff\n{"stage": "2_local", "st')
    log = MetricsLog(epath.Path(tmp_path), "2_local", 4)
    expected = [("1_global", 2), ("1_global", 4), ("2_local", 2), ("2_local", 4)]
    assert [(e["stage"], e["step"]) for e in lines(tmp_path)] == expected
    log.write(6, loss=0.5)
    log.close()
    assert [(e["stage"], e["step"]) for e in lines(tmp_path)] == [*expected, ("2_local", 6)]
    # TensorBoard drops earlier events from the step of a start on.
    starts = [e.step for e in events(tmp_path / "events/2_local") if e.HasField("session_log")]
    assert starts == [1, 5]


def test_a_last_line_without_a_newline_is_kept(tmp_path):
    whole = '{"stage": "1_global", "step": 2}'
    (tmp_path / "metrics.jsonl").write_text(whole)
    log = MetricsLog(epath.Path(tmp_path), "1_global", 2)
    log.write(3)
    log.close()
    assert [e["step"] for e in lines(tmp_path)] == [2, 3]


def test_one_process_writes(tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(module, "is_primary", lambda: False)
        log = MetricsLog(epath.Path(tmp_path / "run"), "1_global", 0)
        log.write(1, loss=1.0)
        log.flush()
        log.close()
    assert not (tmp_path / "run").exists()
    (tmp_path / "run").mkdir()
    log = MetricsLog(epath.Path(tmp_path / "run"), "1_global", 0)
    log.write(1, loss=1.0)
    log.close()
    assert len(lines(tmp_path / "run")) == 1


def test_a_full_disk_is_reported(tmp_path):
    log = MetricsLog(epath.Path(tmp_path), "1_global", 0)
    os.symlink("/dev/full", tmp_path / "metrics.jsonl")
    with pytest.raises(UserError) as error:
        log.write(1, loss=1.0)
    assert str(error.value) == (
        f"{tmp_path}/metrics.jsonl cannot be written: No space left on device; free some space "
        "and run the same command again"
    )


def test_a_full_disk_for_events_is_reported(tmp_path, monkeypatch):
    log = MetricsLog(epath.Path(tmp_path), "1_global", 0)
    full = open("/dev/full", "wb")  # noqa: SIM115
    monkeypatch.setattr(log._events._py_recordio_writer, "_writer", full)
    log.write(1, loss=1.0)
    with pytest.raises(UserError, match="events/1_global cannot be written: No space left"):
        log.flush()


def test_lines_are_flushed_after_a_while(tmp_path, monkeypatch):
    now = [0.0]
    monkeypatch.setattr(module.time, "monotonic", lambda: now[0])
    log = MetricsLog(epath.Path(tmp_path), "1_global", 0)
    log.write(1, loss=1.0)
    assert scalars(tmp_path / "events/1_global") == []
    now[0] = module.FLUSH_SECONDS
    log.write(2, loss=1.0)
    assert [step for step, _, _ in scalars(tmp_path / "events/1_global")] == [1, 2]
    log.close()
