"""A run's files in an object store."""

import json

import numpy as np
import pytest
from etils import epath

from agcnn_jax.config.saved import read_config
from agcnn_jax.run import takeover
from agcnn_jax.run.checkpoints import StageCheckpoints
from agcnn_jax.run.stage_results import has_started
from agcnn_jax.runtime import storage
from agcnn_jax.runtime.errors import UserError
from agcnn_jax.training import log as log_module
from agcnn_jax.training.log import MetricsLog
from tests.evaluation.test_write import given, write
from tests.remote.json_api import Refused
from tests.run.test_checkpoints import IDENTITY, Position, save, saved
from tests.run.test_takeover import GLOBAL, Killed, finish_stage, kill, take, taken


@pytest.fixture
def workdir(store):
    return storage.checkpoint_place("gs://bucket/run")


def steps(store):
    content = store.read("bucket", "run/metrics.jsonl").decode()
    return [(e["stage"], e["step"]) for e in map(json.loads, content.splitlines())]


def test_json(store, workdir):
    assert read_config(workdir) is None
    storage.write_json(workdir / "a" / "b.json", {"x": [1]})
    assert json.loads(store.read("bucket", "run/a/b.json")) == {"x": [1]}
    assert storage.read_json(workdir / "a" / "b.json") == {"x": [1]}


def test_files_of_other_writers_are_seen(store, workdir):
    storage.write_json(workdir / "a.json", {})
    assert [path.name for path in workdir.iterdir()] == ["a.json"]
    store.put("bucket", "run/b.json", b'{"from": "elsewhere"}')
    assert sorted(path.name for path in workdir.iterdir()) == ["a.json", "b.json"]
    assert storage.read_json(workdir / "b.json") == {"from": "elsewhere"}
    store.put("bucket", "run/b.json", b'{"from": "there again"}')
    assert storage.read_json(workdir / "b.json") == {"from": "there again"}


def test_flush_writes_all_lines(store, workdir):
    log = MetricsLog(workdir, "1_global", 0)
    log.write(1, loss=1.0)
    assert store.names("bucket") == []
    log.flush()
    assert steps(store) == [("1_global", 1)]
    sent = len(store.requests)
    log.flush()
    assert not any("metrics.jsonl" in path for _, path in store.requests[sent:])
    log.write(2, loss=0.5)
    log.close()
    assert steps(store) == [("1_global", 1), ("1_global", 2)]
    (events,) = store.names("bucket", "run/events/1_global/")
    assert store.read("bucket", events).count(b"loss") == 2


def test_lines_are_sent_in_intervals(store, workdir, monkeypatch):
    now = [0.0]
    monkeypatch.setattr(log_module.time, "monotonic", lambda: now[0])
    log = MetricsLog(workdir, "1_global", 0)
    log.write(1, loss=1.0)
    assert store.names("bucket") == []
    now[0] = log_module.FLUSH_SECONDS
    log.write(2, loss=1.0)
    assert steps(store) == [("1_global", 1), ("1_global", 2)]


def test_repeated_steps_are_removed(store, workdir):
    entries = [{"stage": s, "step": n} for s in ("1_global", "2_local") for n in (2, 4)]
    torn = b'{"stage": "2_lo'
    content = b"".join(json.dumps(entry).encode() + b"\n" for entry in entries) + torn
    store.put("bucket", "run/metrics.jsonl", content)
    log = MetricsLog(workdir, "2_local", 2)
    assert steps(store) == [("1_global", 2), ("1_global", 4), ("2_local", 2)]
    log.write(4)
    log.close()
    assert steps(store) == [("1_global", 2), ("1_global", 4), ("2_local", 2), ("2_local", 4)]


def test_results_replace_those_before(store):
    folder = "gs://bucket/run/eval/test"
    first = write(folder, given())
    before = store.names("bucket")
    kept = given().scored.probabilities["global"]
    store.requests.clear()
    second = write(folder, given(probabilities={"global": kept}, boxes=None))
    assert first != second
    lost = ("boxes.csv", "comparison.csv", "predictions_fusion.csv", "predictions_local.csv")
    gone = {f"run/eval/test/{name}" for name in lost}
    assert set(before) - set(store.names("bucket")) == gone
    scores = json.loads(store.read("bucket", "run/eval/test/auc.json"))
    assert list(scores["branches"]) == ["global"]
    # All other files exist before the scores appear.
    changes = [path for method, path in store.requests if method in ("POST", "DELETE")]
    assert "auc.json" in changes[0] and store.requests[0][0] != "POST"
    assert store.names("bucket", "run/eval/test/auc.json")


def test_the_scores_come_last(store, monkeypatch):
    order = []
    put = store.put
    monkeypatch.setattr(
        store, "put", lambda bucket, name, content: order.append(name) or put(bucket, name, content)
    )
    write("gs://bucket/run/eval/test", given())
    assert {"run/eval/test/auc.csv", "run/eval/test/metrics.json"} < set(order)
    assert order[-1] == "run/eval/test/auc.json"


def test_checkpoints_are_saved_and_found_again(store, workdir):
    directory = workdir / "stages" / "1_global" / "checkpoints"
    with StageCheckpoints(directory, IDENTITY) as checkpoints:
        for step, score in ((1, 0.5), (2, 0.9), (3, 0.7)):
            state = {"weights": np.arange(5.0) + step, "big": np.full((300, 300), step, np.float32)}
            checkpoints.save(step, state, Position(step))
            checkpoints.add_score(step, score, 3)
    # An incomplete save is not a checkpoint.
    for name in store.names("bucket", "run/stages/1_global/checkpoints/3/"):
        store.put("bucket", name.replace("/3/", "/4/"), store.read("bucket", name))
    del store.objects["bucket"]["run/stages/1_global/checkpoints/4/commit_success.txt"]
    with StageCheckpoints(directory, IDENTITY, read_only=True) as checkpoints:
        assert (sorted(checkpoints.all_steps()), checkpoints.best_step()) == ([2, 3], 2)
        state, _ = checkpoints.restore_best()
    np.testing.assert_array_equal(state["weights"], np.arange(5.0) + 2)
    assert (state["big"] == 2).all()


def test_a_copy_of_a_stage_that_was_killed_is_repeated_or_completed(store, workdir):
    donor = storage.checkpoint_place("gs://bucket/donor")
    finish_stage(donor)
    files = [name.removeprefix("donor/") for name in store.names("bucket", "donor/")]
    # After the first file, and before and after that by which a checkpoint counts.
    for number in (1, len(files) - 2, len(files) - 1):
        with pytest.MonkeyPatch.context() as patch, pytest.raises(Killed):
            kill(patch, number, (takeover, "write_bytes"))
            take(workdir, donor)
        assert len(store.names("bucket", "run/")) == number
        assert has_started(workdir, GLOBAL) == (number == len(files) - 1)
        assert not store.names("bucket", "run/stages/1_global/result.json")
        assert take(workdir, donor) == [f"stage 1_global is taken over from {donor}"]
        assert taken(workdir) == 1
        for name in files:
            assert store.read("bucket", f"run/{name}") == store.read("bucket", f"donor/{name}")
            del store.objects["bucket"][f"run/{name}"]


class TestMistakes:
    """Each is one line that names the path and the remedy."""

    def test_no_permission(self, store, workdir):
        store.forbidden.add("bucket")
        for what in (
            lambda: read_config(workdir),
            lambda: storage.write_json(workdir / "a.json", {}),
            lambda: MetricsLog(workdir, "1_global", 0),
            lambda: write("gs://bucket/run/eval/test", given()),
        ):
            with pytest.raises(UserError, match=r"^gs://bucket/run.* cannot be .*; ") as error:
                what()
            assert "\n" not in str(error.value)

    def test_a_bucket_that_is_not_there(self, store):
        with pytest.raises(
            UserError, match=r"^gs://none/a.json cannot be written: not found .*; check"
        ):
            storage.write_json(epath.Path("gs://none/a.json"), {})

    @pytest.mark.parametrize("when", ["opening", "saving", "writing arrays"])
    def test_checkpoints_that_a_bucket_does_not_take(
        self, store, workdir, when, monkeypatch, capfd
    ):
        directory = workdir / "stages" / "1_global" / "checkpoints"
        put = store.put

        def refuse_arrays(bucket, name, content):
            if "/ocdbt.process_0/" in name:
                raise Refused(403)
            return put(bucket, name, content)

        if when == "opening":
            store.forbidden.add("bucket")
            with pytest.raises(UserError) as error:
                StageCheckpoints(directory)
        else:
            with StageCheckpoints(directory, IDENTITY) as checkpoints:
                save(checkpoints, 1)
                checkpoints.wait_until_finished()
                if when == "saving":
                    store.forbidden.add("bucket")
                else:
                    monkeypatch.setattr(store, "put", refuse_arrays)
                with pytest.raises(UserError) as error:
                    save(checkpoints, 2)
                    checkpoints.wait_until_finished()
        text = str(error.value)
        assert text.startswith(f"{directory} cannot be written: ")
        assert text.endswith(f"; {storage.REACHABLE}")
        assert ("PERMISSION_DENIED" if when == "writing arrays" else "Forbidden") in text
        assert "\n" not in text
        assert capfd.readouterr().err == ""
        store.forbidden.clear()
        monkeypatch.undo()
        if when != "opening":
            assert saved(directory) == 1
            with StageCheckpoints(directory, IDENTITY) as checkpoints:
                save(checkpoints, 2)
            assert saved(directory) == 2

    @pytest.mark.parametrize("what", ["no permission", "damaged", "gone"])
    def test_checkpoints_that_a_bucket_does_not_give(self, store, workdir, what):
        directory = workdir / "stages" / "1_global" / "checkpoints"
        with StageCheckpoints(directory, IDENTITY) as checkpoints:
            save(checkpoints, 1, 0.5)
        prefix = "run/stages/1_global/checkpoints/1/state/"
        [data, *_] = store.names("bucket", f"{prefix}d/")
        with (
            pytest.raises(UserError) as error,
            StageCheckpoints(directory, IDENTITY, read_only=True) as checkpoints,
        ):
            if what == "no permission":
                store.forbidden.add("bucket")
            elif what == "damaged":
                store.put("bucket", data, store.read("bucket", data)[:100])
            else:
                del store.objects["bucket"][data]
            checkpoints.restore_best()
        text = str(error.value)
        assert text.startswith(f"checkpoint {directory}/1 cannot be read (")
        assert "check your permission and the network, or, if it is damaged, delete gs://" in text
        assert "\n" not in text
