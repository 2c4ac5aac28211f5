"""One training at a time in a workdir that lies in a bucket."""

import json
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from agcnn_jax.runtime import workdir_lock
from agcnn_jax.runtime.errors import Stopped, UserError
from agcnn_jax.runtime.storage import REACHABLE, absolute
from agcnn_jax.runtime.workdir_lock import lock_workdir

WORKDIR = "gs://bucket/run"


def never():
    return False


def train(seconds=0.0):
    with lock_workdir(absolute(WORKDIR), 2, never):
        found = json.loads((absolute(WORKDIR) / workdir_lock.FILE).read_text())
        time.sleep(seconds)
        return found


def test_one_after_the_other(store):
    assert train()["host"]
    assert store.names("bucket") == []
    with ThreadPoolExecutor(2) as pool:
        first = pool.submit(train, 1.0)
        while not store.names("bucket"):
            time.sleep(0.01)
        time.sleep(0.1)  # The first reads back what it wrote.
        second = pool.submit(train)
        assert second.result(timeout=20)["token"] != first.result(timeout=20)["token"]
    assert store.names("bucket") == []


def test_a_training_that_goes_on(store):
    with ThreadPoolExecutor(1) as pool:
        first = pool.submit(train, 3.5)
        while not store.names("bucket"):
            time.sleep(0.01)
        time.sleep(0.1)
        with pytest.raises(Stopped, match=rf"^{WORKDIR} is being trained by process \d+ on "):
            train()
        first.result(timeout=20)


def test_a_silent_one_elsewhere_goes_stale(store):
    path = absolute(WORKDIR) / workdir_lock.FILE
    entry = workdir_lock.Lock(path, 0.5).entry
    store.put(
        "bucket",
        f"run/{workdir_lock.FILE}",
        json.dumps({**entry, "token": "theirs", "identity": None}).encode(),
    )
    assert train()["token"] != "theirs"
    assert store.names("bucket") == []


def test_two_at_the_same_time(store):
    """Both find no file and write theirs; the last writer goes on."""
    with ThreadPoolExecutor(2) as pool:
        ends = [pool.submit(train, 2.5) for _ in range(2)]
        errors = [end.exception(timeout=30) for end in ends]
    assert sum(error is None for error in errors) == 1
    assert sum(isinstance(error, Stopped) for error in errors) == 1


def test_a_bucket_that_cannot_be_written(store):
    store.forbidden.add("bucket")
    with pytest.raises(UserError, match=rf"^{WORKDIR}/training.json cannot be .*; {REACHABLE}"):
        train()
