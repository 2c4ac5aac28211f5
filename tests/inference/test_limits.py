"""The line that says what limits a prediction."""

import jax.numpy as jnp
import numpy as np
import pytest

from agcnn_jax.inference import limits
from agcnn_jax.inference.limits import Work


@pytest.mark.parametrize(
    ("seconds", "line"),
    [
        ({"films": 7, "decoding": 180, "device": 3.1}, "decoding: 16 cores busy, device 31 % busy"),
        ({"films": 7, "decoding": 14, "fetching": 6}, "reading: 1.4 cores busy, device 0 % busy"),
        ({"films": 1, "results": 8, "device": 99}, "device: 0.0 cores busy, device 100 % busy"),
        ({"films": 1, "results": 2, "decoding": 30}, "writing: 3.0 cores busy, device 0 % busy"),
    ],
)
def test_what_the_others_waited_for_limits(monkeypatch, seconds, line):
    monkeypatch.setattr(limits, "available_cores", lambda: 16)
    monkeypatch.setattr(limits.time, "perf_counter", lambda: 100.0)
    work = Work()
    assert work.describe() is None
    work.start()
    for name, value in seconds.items():
        setattr(work, name, value)
    monkeypatch.setattr(limits.time, "perf_counter", lambda: 110.0)
    assert work.describe() == line


def test_devices_are_busy_from_the_call_or_the_last_result_on(monkeypatch):
    work = Work()
    now = iter([10.0, 12.0, 14.0, 15.0])
    monkeypatch.setattr(limits.time, "perf_counter", lambda: next(now))
    work.start()
    work._wait({"global": jnp.zeros(1)}, 11.0)  # until 12
    work._wait({"global": np.zeros(1)}, 11.5)  # waits for the other one, until 14
    work._wait({"global": jnp.zeros(1)}, 14.5)  # until 15
    assert work.device == 1 + 2 + 0.5
