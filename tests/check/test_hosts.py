"""Hosts that differ, clocks apart, and a coordinator that only its own host can reach."""

import json

import pytest

from agcnn_jax.check.hosts import judge_hosts

EQUAL = {"version of jax": "0.10.2", "version of libtpu": "0.0.42", "file agcnn_jax/a.py": "aa"}


def facts(host, **changes):
    one = {
        "host": host,
        "cores": 8,
        "memory": 2**30,
        "devices": {"TPU v5 lite": 4},
        "coordinator": "node-a",
        "coordinator_is": ["10.0.0.1"],
        "equal": EQUAL,
    }
    return one | changes


def test_equal_hosts():
    part = judge_hosts([facts("node-a"), facts("node-a"), facts("node-b")], [10.0, 10.5, 11.0])
    assert part.failures == ()
    assert part.figures["hosts"] == 2
    assert part.figures["devices"] == {"TPU v5 lite": 12}
    assert part.figures["versions"] == {"jax": "0.10.2", "libtpu": "0.0.42"}
    assert part.figures["clocks_apart"] == 1.0
    assert part.lines[0] == "2 host(s), 3 process(es), devices: 12 TPU v5 lite"
    json.dumps(part.figures)


def test_versions_and_code_that_differ():
    other = EQUAL | {"version of libtpu": "0.0.41", "file agcnn_jax/a.py": "bb", "x": 1, "y": 2}
    part = judge_hosts([facts("node-a"), facts("node-b", equal=other)], [0.0, 0.0])
    [failure] = part.failures
    assert failure.startswith(
        "process 1 on node-b differs from process 0 in version of libtpu ('0.0.41' instead of "
        "'0.0.42'), file agcnn_jax/a.py ('bb' instead of 'aa'), x (1 instead of None) and 1 more"
    )
    assert "install the same versions and code on all hosts" in failure
    assert len(part.figures["differences"]) == 4
    assert {"process": 1, "what": "x", "first": None, "theirs": 1} in part.figures["differences"]


def test_clocks_apart():
    hosts = [facts("a"), facts("b"), facts("c")]
    [failure] = judge_hosts(hosts, [100.0, 98.5, 99.0]).failures
    assert failure.startswith(
        "the clock of process 0 on a is 1.5 s ahead of that of process 1 on b"
    )
    assert "chrony" in failure


@pytest.mark.parametrize("address", ["127.0.1.1", "::1"])
def test_a_coordinator_that_only_its_own_host_can_reach(address):
    own = facts("node-a", coordinator_is=["10.0.0.1", address])
    [failure] = judge_hosts([own, facts("node-b")], [0.0, 0.0]).failures
    assert failure.startswith(
        f"on process 0 on node-a the coordinator node-a resolves to {address}"
    )
    assert "/etc/hosts" in failure
    # On one host it is what tests and workstations use.
    assert judge_hosts([own, own], [0.0, 0.0]).failures == ()
