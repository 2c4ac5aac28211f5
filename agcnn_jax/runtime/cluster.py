"""The processes of a run: how they find each other, and how they end together.

Finding each other is `jax.distributed.initialize`, which knows TPU pods, Slurm, Open MPI and
Kubernetes; watching over each other is its heartbeat. What is added here is that a process that
stops by itself tells the others why.
"""

from __future__ import annotations

import contextlib
import errno
import os
import socket
import sys
import threading
import time
from typing import Any, NoReturn

import jax
from jax._src import distributed  # the key-value store has no public name yet (jax 0.10)

from agcnn_jax.runtime import supervisor
from agcnn_jax.runtime.errors import USAGE_STATUS, Stopped, UserError, say
from agcnn_jax.runtime.processes import exchange

_FAILURES = "agcnn_jax/failures/"
_LOOK_EVERY = 2.0

_leaving = threading.Event()
"""Set once this process has something to say itself about how the run ends."""


def join(
    coordinator_address: str | None = None,
    num_processes: int | None = None,
    process_id: int | None = None,
    peer_timeout: int = 120,
    start_timeout: int = 300,
    preemptible: bool = True,
) -> None:
    """Find the other processes of the run, if there are any.

    Args:
        coordinator_address: HOST:PORT at which process 0 can be reached; None where JAX finds out
            by itself (TPU pods, Slurm, Open MPI, Kubernetes) and for a run of one process.
        num_processes: of the run.
        process_id: number of this one.
        peer_timeout: seconds without a sign of life after which a process counts as lost.
        start_timeout: seconds to wait for the others at the start.
        preemptible: whether SIGTERM is kept for `stop_requests`; otherwise it ends the process.

    Raises:
        UserError: if JAX does not take the flags.
        Stopped: if the other processes do not come, or another program holds the port.
    """
    if coordinator_address and process_id == 0:
        wait_for_port(coordinator_address, start_timeout)
    jax.config.update("jax_cpu_collectives_implementation", "gloo")
    jax.config.update("jax_enable_preemption_service", preemptible)
    try:
        jax.distributed.initialize(
            coordinator_address,
            num_processes,
            process_id,
            # What the flags say is not to be completed from a launcher's variables.
            cluster_detection_method="deactivate" if coordinator_address else None,
            initialization_timeout=start_timeout,
            heartbeat_timeout_seconds=peer_timeout,
        )
    except ValueError as error:
        if coordinator_address is None:
            return  # no launcher that JAX knows: a run of one process
        raise UserError(f"--coordinator_address {coordinator_address}: {error}") from error
    except RuntimeError as error:
        raise Stopped(supervisor.not_found(coordinator_address, start_timeout)) from error
    if jax.process_count() > 1:
        counts = exchange([socket.gethostname(), jax.local_device_count()])
        supervisor.tell_hosts(host for host, _ in counts)
        if len({devices for _, devices in counts}) > 1:
            listed = ", ".join(f"process {i} {n} on {host}" for i, (host, n) in enumerate(counts))
            raise UserError(f"processes have different numbers of devices: {listed}; give all one")
        threading.Thread(target=_stop_with_others, daemon=True).start()


def wait_for_port(coordinator_address: str, start_timeout: int) -> None:
    """Wait until process 0 can listen at its port, which a run that is ending may still hold.

    JAX (0.10) crashes where it cannot; and where another run of the same user listens, gRPC would
    share the port with it.

    Raises:
        Stopped: if it stays in use.
        UserError: if this process may not listen there.
    """
    port = int(coordinator_address.rpartition(":")[2])
    both = socket.has_dualstack_ipv6()
    end = time.monotonic() + start_timeout
    while True:
        try:
            family = socket.AF_INET6 if both else socket.AF_INET
            with socket.create_server(("", port), family=family, dualstack_ipv6=both):
                return
        except OSError as error:
            message = (
                f"process 0 cannot listen at --coordinator_address {coordinator_address} "
                f"({os.strerror(error.errno or 0)}); give a port that is free on its host"
            )
            if error.errno != errno.EADDRINUSE:
                raise UserError(message) from error
            if time.monotonic() >= end:
                raise Stopped(f"{message}, or end what uses it") from error
            time.sleep(0.5)


def is_joined() -> bool:
    """Whether this process is one of several."""
    return jax.distributed.is_initialized() and jax.process_count() > 1


def announce(message: str) -> None:
    """Tell the other processes that this one stops by a mistake that concerns them all."""
    if is_joined():
        _leaving.set()
        # Without a coordinator nobody can be told; JAX's heartbeat ends the others.
        with contextlib.suppress(RuntimeError):
            _store().key_value_set(
                f"{_FAILURES}{jax.process_index()}", message, allow_overwrite=True
            )


def may_be_lost_peer(error: Exception) -> bool:
    """Whether an error is of the kind that computing with a lost process ends in."""
    ours = ("RESOURCE_EXHAUSTED", "INVALID_ARGUMENT")
    return isinstance(error, jax.errors.JaxRuntimeError) and not str(error).startswith(ours)


def wait_for_verdict(error: Exception, peer_timeout: int) -> None:
    """Wait for JAX to find out whether another process is lost, in which case this one ends.

    A broken connection shows at once, as an error of whatever was being computed; which process
    broke it is known only when its heartbeat stays out.
    """
    first = str(error).split("\n")[0][:200]
    say(f"{first}: a lost process may have caused this; waiting {peer_timeout} s to know")
    time.sleep(peer_timeout + 5 * _LOOK_EVERY)


def leave(status: int) -> NoReturn:
    """End this process of several at once, without waiting for the others to end too."""
    if jax.process_index() == 0 and _leaving.is_set():
        # The announcement is gone with process 0, which hosts it.
        time.sleep(3 * _LOOK_EVERY)
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)


def _stop_with_others() -> None:
    """Watch for an announcement of another process, and end this one as well."""
    while True:
        time.sleep(_LOOK_EVERY)
        try:
            failures = _store().key_value_dir_get(_FAILURES)
        except (RuntimeError, AttributeError):
            return  # the run is over, or its coordinator lost: JAX's own heartbeat sees to it
        if _leaving.is_set():
            return
        for key, message in failures:
            process = int(key.rsplit("/", 1)[-1])
            if process != jax.process_index():
                say(f"error: process {process} stopped: {message}")
                leave(USAGE_STATUS)


def _store() -> Any:
    return distributed.global_state.client
