"""A slow host, and sums over devices."""

import json

import jax
import pytest

from agcnn_jax.check.network import all_reduce_seconds, judge_network
from agcnn_jax.runtime.devices import device_mesh

HOSTS = ["a", "b", "c", "d"]


def test_a_slow_host():
    trips = [[0.0001, 0.001], [0.001, 0.03], [0.001, 0.09], [0.002, 0.02]]
    part = judge_network(0.001, 0.01, 4_000_000, trips, HOSTS)
    [failure] = part.failures
    assert failure.startswith("process 2 on c is slow: 1 MiB to process 0 and back takes 0.090 s")
    assert part.figures["slowest_process"] == 2
    assert part.figures["all_reduce_of_gradients"]["gigabytes_per_second"] == pytest.approx(0.4)
    json.dumps(part.figures)
    # Process 0, which reaches itself, is not what the others are compared with.
    trips[2][1] = 0.05
    assert judge_network(0.001, 0.01, 4_000_000, trips, HOSTS).failures == ()


def test_one_process_has_nobody_to_exchange_with():
    part = judge_network(0.001, 0.01, 4, [[0.0, 0.0]], ["a"])
    assert "to_process_0" not in part.figures
    assert part.failures == ()


def test_all_devices_sum():
    assert 0 < all_reduce_seconds(device_mesh(jax.devices()[:2]), 1000) < 60
