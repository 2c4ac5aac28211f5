"""Lost processes in the log of the C++ below JAX."""

import pytest

from agcnn_jax.runtime import jax_log

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
    assert jax_log.lost_processes(log) == expected
