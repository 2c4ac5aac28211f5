"""One training at a time in a workdir."""

import json
import os
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import pytest
from etils import epath

from agcnn_jax.runtime import workdir_lock
from agcnn_jax.runtime.errors import Stopped, UserError
from agcnn_jax.runtime.storage import write_json
from agcnn_jax.runtime.workdir_lock import identity, lock_workdir

LONG = 60


def never():
    return False


def train(workdir, peer_timeout, stop_requested=never):
    with lock_workdir(workdir, peer_timeout, stop_requested):
        return json.loads((workdir / workdir_lock.FILE).read_text())


@pytest.fixture
def workdir(tmp_path):
    return epath.Path(tmp_path / "runs/a")


@pytest.fixture
def file(workdir):
    return workdir / workdir_lock.FILE


def put(file, **values):
    """Write the file of another training, by default on another machine."""
    entry = workdir_lock.Lock(file, 0.2).entry
    write_json(file, {**entry, "token": "theirs", "identity": None, **values})


@contextmanager
def refreshed(file, every=0.02, **values):
    """Simulate a training that continues elsewhere."""
    ended = threading.Event()

    def write():
        count = 0
        while not ended.is_set():
            put(file, **values, refreshed=(count := count + 1))
            ended.wait(every)

    put(file, **values)
    thread = threading.Thread(target=write)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


@pytest.fixture
def left(monkeypatch):
    """Messages with which `Lock.refresh` would have ended this process."""
    messages = []

    def leave(status):
        assert status == 75
        raise OSError

    monkeypatch.setattr(workdir_lock, "say", messages.append)
    monkeypatch.setattr(workdir_lock.cluster, "leave", leave)
    return messages


def test_the_file_says_who_trains_while_it_does(workdir, file):
    with lock_workdir(workdir, LONG, never):
        found = json.loads(file.read_text())
        assert found["process"] == os.getpid()
        assert found["host"] == os.uname().nodename
        assert [path.name for path in workdir.iterdir()] == [workdir_lock.FILE]
    assert list(workdir.iterdir()) == []


@pytest.mark.parametrize("error", [UserError("x"), Stopped("x"), KeyboardInterrupt(), OSError()])
def test_it_goes_however_the_training_ends(workdir, error):
    with pytest.raises(type(error)), lock_workdir(workdir, LONG, never):
        raise error
    assert list(workdir.iterdir()) == []


def test_it_is_refreshed_every_quarter(workdir, file, left):
    with lock_workdir(workdir, 0.2, never):
        seen = set()
        end = time.monotonic() + 10
        while len(seen) < 4 and time.monotonic() < end:
            seen.add(json.loads(file.read_text())["refreshed"])
            time.sleep(0.01)
    assert seen >= {0, 1, 2, 3}
    assert left == []


def test_a_second_training_is_told_of_the_first(workdir, file, capsys):
    with lock_workdir(workdir, 0.4, never):
        begun = time.monotonic()
        with pytest.raises(Stopped) as error:
            train(workdir, 0.4)
        assert time.monotonic() - begun >= 0.4
        first = f"process {os.getpid()} on {os.uname().nodename}, since "
        assert f"{workdir} is being trained by {first}" in str(error.value)
        assert f"{first}" in capsys.readouterr().out
        assert json.loads(file.read_text())["process"] == os.getpid()


def test_a_second_training_begins_when_the_first_ends(workdir, file):
    with ThreadPoolExecutor(1) as pool:
        with lock_workdir(workdir, LONG, never):
            token = json.loads(file.read_text())["token"]
            waiting = pool.submit(train, workdir, 2)
            time.sleep(0.3)
            assert not waiting.done()
        assert waiting.result(timeout=10)["token"] != token
    assert not file.exists()


def test_a_silent_training_elsewhere_goes_stale(workdir, file):
    put(file, host="elsewhere")
    begun = time.monotonic()
    assert train(workdir, 0.2)["host"] == os.uname().nodename
    assert time.monotonic() - begun >= 0.2


def test_a_training_elsewhere_that_goes_on(workdir, file):
    with (
        refreshed(file, host="elsewhere", process=7),
        pytest.raises(Stopped, match="process 7 on elsewhere"),
    ):
        train(workdir, 0.3)
    assert json.loads(file.read_text())["host"] == "elsewhere"


def test_the_longer_of_two_timeouts_counts(workdir, file):
    """A run with a short timeout must not take over from one with a long timeout too early."""
    with refreshed(file, every=0.15, peer_timeout=0.6), pytest.raises(Stopped):
        train(workdir, 0.1)


@pytest.mark.parametrize(
    "content", [b"", b"{", b"[]", b"{}", b"null", b'{"peer_timeout": "x", "process": 1}']
)
def test_a_damaged_file_goes_stale(workdir, file, content):
    workdir.mkdir(parents=True)
    file.write_bytes(content)
    assert train(workdir, 0.2)["process"] == os.getpid()


def test_a_dead_training_on_this_machine_is_stale_at_once(workdir, file):
    process = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    known = identity(process.pid)
    put(file, process=process.pid, identity=known, peer_timeout=LONG)
    with pytest.raises(Stopped):
        train(workdir, 0.2, lambda: True)
    process.kill()
    # A killed process is a zombie until its parent waits for it.
    while identity(process.pid)[2] != "ended":
        time.sleep(0.01)
    train(workdir, 0.2)
    process.communicate()
    put(file, process=process.pid, identity=known, peer_timeout=LONG)
    train(workdir, 0.2)


def test_a_reused_process_number_is_another_process(workdir, file):
    known = [*identity(os.getpid())[:2], "1"]
    put(file, process=os.getpid(), identity=known, peer_timeout=LONG)
    train(workdir, 0.2)


@pytest.mark.parametrize("known", [["another boot", "pid:[1]", "1"], None])
def test_process_numbers_of_other_machines_tell_nothing(workdir, file, known):
    put(file, process=2**22 + 1, identity=known, peer_timeout=LONG)
    asked = iter([False, True])
    with pytest.raises(Stopped, match="stopped while waiting for process 4194305"):
        train(workdir, 0.2, lambda: next(asked))
    assert file.exists()


def test_one_of_many_trainings_gets_the_lock(workdir):
    """A file that all find stale at the same time is replaced by one of them, too."""
    for content in (None, b"damaged"):
        if content is not None:
            (workdir / workdir_lock.FILE).write_bytes(content)
        inside, most = [], []

        def train_slowly(number, inside=inside, most=most):
            with lock_workdir(workdir, 2, never):
                inside.append(number)
                most.append(len(inside))
                time.sleep(0.05)
                inside.remove(number)

        with ThreadPoolExecutor(8) as pool:
            ends = [pool.submit(train_slowly, number) for number in range(8)]
            errors = [end.exception(timeout=30) for end in ends]
        assert set(most) == {1}
        assert all(error is None or isinstance(error, Stopped) for error in errors)


def test_a_training_that_was_taken_over_stops(workdir, file, left):
    with lock_workdir(workdir, 0.2, never):
        put(file, host="elsewhere", process=7)
        deadline = time.monotonic() + 10
        while not left and time.monotonic() < deadline:
            time.sleep(0.01)
    assert "taken over by process 7 on elsewhere" in left[0]
    # It leaves the file of the other training.
    assert json.loads(file.read_text())["host"] == "elsewhere"


def test_a_workdir_that_cannot_be_written(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"file/a/training.json cannot be written: .*--workdir"):
        train(epath.Path(tmp_path / "file/a"), LONG)


def test_nothing_is_written_to_the_workdir_of_another_training(workdir, file, data_dir):
    from agcnn_jax.training.loop import train as train_run
    from tests.configs import demo

    config = demo.get_config()
    config.data.dir = str(data_dir)
    config.input_size, config.peer_timeout, config.max_steps = 56, 1, 1
    with refreshed(file), pytest.raises(Stopped, match="is being trained by"):
        train_run(config, str(workdir))
    assert [path.name for path in workdir.iterdir()] == [workdir_lock.FILE]
