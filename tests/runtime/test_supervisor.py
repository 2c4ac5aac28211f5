"""Conclusions that a process's parent draws from the log of the C++ below JAX."""

import collections
import io
import os
import signal

import pytest

from agcnn_jax.runtime import supervisor
from tests.runtime.test_jax_log import ELSE, LEADER_LOST, NOBODY_CAME, PORT_IN_USE, unhealthy


@pytest.mark.parametrize(
    ("status", "log", "hosts", "words"),
    [
        (-signal.SIGABRT, unhealthy(1), ["a", "b"], "process 1 on b of this run was lost"),
        (-signal.SIGABRT, unhealthy(0, 1), ["a", "b"], "process 0 on a and process 1 on b"),
        (-signal.SIGABRT, LEADER_LOST, ["a", "b"], "process 0 on a of this run was lost"),
        (-signal.SIGABRT, NOBODY_CAME, [], "met at host:1 within 7 s"),
        (-signal.SIGSEGV, PORT_IN_USE, [], "port is in use"),
        (-signal.SIGTERM, "", [], "stopped by SIGTERM"),
        # Other logs are shown unchanged.
        (-signal.SIGABRT, ELSE, ["a", "b"], None),
        (-signal.SIGABRT, ELSE, [], None),
        (-signal.SIGABRT, NOBODY_CAME, ["a", "b"], None),
        (-signal.SIGKILL, unhealthy(1), ["a", "b"], None),
        (-signal.SIGSEGV, "", [], None),
        (0, unhealthy(1), ["a", "b"], None),
        (2, "", [], None),
    ],
)
def test_why_a_child_ended(status, log, hosts, words):
    reason = supervisor.explain(status, log, hosts, "host:1", 7)
    if words is None:
        assert reason is None
    else:
        assert words in reason


@pytest.mark.parametrize("log", [unhealthy(1), LEADER_LOST, NOBODY_CAME, PORT_IN_USE])
def test_last_words_are_held_back_and_others_are_passed_on(log):
    warning = "W1123 12:46:52.608165   24407 cpu_feature.cc:1] slow\nplain\n"
    hosts = f'agcnn_jax hosts: ["a", "b"]\n[Gloo] Rank 0 is connected\n{warning}'
    text = f"{hosts}{log}".encode()
    lines, held, found = collections.deque(), [], []
    reading, writing = os.pipe()
    supervisor._pass_on(io.BytesIO(text), writing, lines, held, found)
    os.close(writing)
    with os.fdopen(reading, "rb") as passed:
        assert passed.read().decode() == warning
    assert b"".join(held).decode() == log
    assert "".join(lines) == warning + log
    assert found == ["a", "b"]
