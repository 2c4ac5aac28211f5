"""Conclusions that a process's parent draws from the log of the C++ below JAX."""

import collections
import io
import os
import signal

import pytest

from agcnn_jax.runtime import supervisor

# As jax 0.10.2 wrote them, each with a stack trace at its end.
SERVICE = (
    "coordination_service.cc:1549] [17616591924645750873] Use error polling to propagate the "
    "following error to all tasks: UNAVAILABLE: "
)
AGENT = (
    "E1123 12:50:13.606224   27464 coordination_service_agent.cc:289] Polled an error from "
    "coordination service (this can be an error from this or another task).\n"
)
FATAL = (
    "F1123 12:50:13.606369   27464 client.h:80] Terminating process because the JAX distributed "
    "service detected fatal errors. This most likely indicates that another task died; see the "
    "other task logs for more details. Disable Python buffering, i.e. `python -u`, to be sure to "
    "see all the previous output. absl::Status: "
)
TRACE = (
    "*** Check failure stack trace: ***\n"
    "    @     0x7f9d18e40634  absl::lts_20260107::log_internal::LogMessage::SendToLog()\n"
)


def unhealthy(*tasks):
    """Return what process 0 writes when others have stopped sending heartbeats."""
    named = "".join(f"{task}\n" for task in tasks)
    message = (
        f"The following tasks are unhealthy (stopped sending heartbeats):\n{named}"
        "The tasks have crashed. Check the task logs for an earlier error, or scheduler events "
        "(e.g. preemption, eviction) to debug further."
    )
    kind = " [type.googleapis.com/tensorflow.CoordinationServiceError='']\n"
    return (
        f"E1123 12:50:13.605561   27453 {SERVICE}{message}{kind}{AGENT}{FATAL}UNAVAILABLE: "
        f"{message}\n\nRPC: /xla.coordination.CoordinationService/PollForError{kind}{TRACE}"
    )


LEADER_LOST = (
    f"{AGENT}{FATAL}UNAVAILABLE: Failed to send RPC to coordination service. Either the leader "
    "task was preempted/died/restarted unexpectedly or this task is experiencing network issues. "
    "Check earlier logs from 1) this task, 2) the leader (usually slice 0 task 0), and 3) cluster "
    "scheduler to debug further.\n"
    "Additional GRPC error information from remote target coordination_service while calling "
    "/xla.coordination.CoordinationService/PollForError:\n"
    ':UNKNOWN:Error received from peer  {grpc_message:"Socket closed", grpc_status:14}\n'
    f"{TRACE}"
)
LEADER_HANGS = (
    f"{FATAL}DEADLINE_EXCEEDED: Deadline Exceeded\n\n"
    f"RPC: /xla.coordination.CoordinationService/Heartbeat\n{TRACE}"
)
NOBODY_CAME = (
    f"{FATAL}DEADLINE_EXCEEDED: Deadline Exceeded\n\n"
    f"RPC: /xla.coordination.CoordinationService/RegisterTask\n{TRACE}"
)
PORT_IN_USE = (
    "E1123 12:46:52.608165   24407 add_port.cc:83] Failed to add port to server: No address added "
    "out of total 1 resolved for '[::]:8123'\n"
)
ELSE = "F1123 12:46:52.608165   24407 literal.cc:12] Check failed: shape\n"


@pytest.mark.parametrize(
    ("log", "expected"),
    [
        (unhealthy(1), [1]),
        (unhealthy(3, 12), [3, 12]),
        (LEADER_LOST, [0]),
        (LEADER_HANGS, [0]),
        (NOBODY_CAME, []),
        (PORT_IN_USE, []),
        (ELSE, []),
        ("", []),
    ],
)
def test_lost_processes(log, expected):
    assert supervisor.lost_processes(log) == expected


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


def test_a_coordinator_that_each_host_takes_for_itself():
    message = supervisor.not_found("localhost:8476", 5)
    assert "localhost:8476, which is 127.0.0.1 here, the address of each host itself" in message
    assert "which is" not in supervisor.not_found("10.0.0.1:8476", 5)
    assert supervisor.addresses("[::1]:80") == ["::1"]
    assert supervisor.addresses("") == []
