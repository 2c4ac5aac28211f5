"""Finding the other processes of a run, and ending together with them.

`jax.distributed.initialize` finds them on TPU pods, Slurm, Open MPI and Kubernetes, and its
heartbeat notices a lost process. Added here: a process that stops by itself tells the others why.
"""

from __future__ import annotations

import collections
import contextlib
import errno
import os
import socket
import sys
import threading
import time
import traceback
from typing import NoReturn

import jax
from jax._src.distributed import global_state  # its client has no public name in jax 0.10.2

from agcnn_jax.runtime import supervisor
from agcnn_jax.runtime.errors import USAGE_STATUS, Stopped, UserError, say
from agcnn_jax.runtime.processes import exchange

_FAILURES = "agcnn_jax/failures/"
_ROUND_TRIPS = "agcnn_jax/round_trips/"
_LOOK_EVERY = 2.0  # seconds
_leaving = threading.Event()  # set once this process tells the others why the run ends


def join(
    coordinator_address: str | None,
    num_processes: int | None,
    process_id: int | None,
    peer_timeout: int,
    start_timeout: int,
    preemptible: bool,
) -> None:
    """Find the other processes of the run, if there are any; without an address, by a launcher.

    A process counts as lost after `peer_timeout` seconds without a heartbeat. SIGTERM is kept for
    `stop_requests` if `preemptible`; otherwise it ends the process. `UserError` if JAX rejects the
    flags, or the processes have different numbers of devices; `Stopped` if the others do not come
    within `start_timeout` seconds, or the port is in use.
    """
    if coordinator_address and process_id == 0:
        _wait_for_port(coordinator_address, start_timeout)
    jax.config.update("jax_cpu_collectives_implementation", "gloo")
    jax.config.update("jax_enable_preemption_service", preemptible)
    try:
        jax.distributed.initialize(
            coordinator_address,
            num_processes,
            process_id,
            # A launcher's variables must not complete the flags.
            cluster_detection_method="deactivate" if coordinator_address else None,
            initialization_timeout=start_timeout,
            heartbeat_timeout_seconds=peer_timeout,
        )
    except ValueError as error:
        if coordinator_address is None:
            return  # JAX knows no launcher here: a run of one process.
        raise UserError(f"--coordinator_address {coordinator_address}: {error}") from error
    except RuntimeError as error:
        raise Stopped(supervisor.not_found(coordinator_address, start_timeout)) from error
    # Before anything is exchanged, which JAX cannot do between unequal processes.
    counts = collections.Counter(device.process_index for device in jax.devices())
    if len(set(counts.values())) > 1:
        listed = ", ".join(f"process {i} {counts[i]}" for i in sorted(counts))
        raise UserError(
            f"processes have different numbers of devices: {listed}; give all processes the same"
        )
    if is_joined():
        supervisor.tell_hosts(exchange(socket.gethostname()))
        threading.Thread(target=_stop_with_others, daemon=True).start()


def _wait_for_port(coordinator_address: str, start_timeout: int) -> None:
    # A run that is ending may still hold the port. JAX 0.10.2 crashes if it cannot listen, and
    # shares the port with another run of the same user.
    port, end = int(coordinator_address.rpartition(":")[2]), time.monotonic() + start_timeout
    while True:
        try:
            socket.create_server(("", port)).close()
            return
        except OSError as error:
            message = (
                f"process 0 cannot listen at --coordinator_address {coordinator_address} "
                f"({os.strerror(error.errno or 0)}); give a port that is free on its host"
            )
            if error.errno != errno.EADDRINUSE:
                raise UserError(message) from error
            if time.monotonic() >= end:
                raise Stopped(f"{message}, or end the program that uses it") from error
        time.sleep(0.5)


def is_joined() -> bool:
    """Return True if this process is one of several."""
    return jax.distributed.is_initialized() and jax.process_count() > 1


def coordinator() -> str | None:
    """Return HOST:PORT where the processes meet, as this process was told; None if it is alone."""
    address: str | None = global_state.coordinator_address
    return address if is_joined() else None


def round_trip(content: bytes) -> float:
    """Return the seconds that it takes to send bytes to process 0's host and to get them back."""
    client, key = global_state.client, f"{_ROUND_TRIPS}{jax.process_index()}"
    began = time.perf_counter()
    client.key_value_set_bytes(key, content)  # type: ignore[union-attr]
    client.blocking_key_value_get_bytes(key, 60_000)  # type: ignore[union-attr]
    seconds = time.perf_counter() - began
    client.key_value_delete(key)  # type: ignore[union-attr]
    return seconds


def fail(error: Exception, peer_timeout: int = 0) -> None:
    """End this process and the others with an error, or return if there are no others."""
    if not is_joined():
        return
    if isinstance(error, UserError):
        say(f"error: {error}")
        message, status = str(error), USAGE_STATUS
    else:
        first = str(error).split("\n")[0][:200]
        unrelated = first.startswith(("RESOURCE_EXHAUSTED", "INVALID_ARGUMENT"))
        if isinstance(error, jax.errors.JaxRuntimeError) and not unrelated:
            # A broken connection shows at once, the process that broke it only by its missing
            # heartbeat, after which JAX ends this process.
            say(f"{first}: a lost process may have caused this; waiting {peer_timeout} s to know")
            time.sleep(peer_timeout + 5 * _LOOK_EVERY)
        traceback.print_exception(error)
        message, status = f"{type(error).__name__}: {error}"[:500], 1
    _leaving.set()
    # If the coordinator is gone, JAX's heartbeat ends the others.
    with contextlib.suppress(RuntimeError):
        key = f"{_FAILURES}{jax.process_index()}"
        global_state.client.key_value_set(key, message, allow_overwrite=True)  # type: ignore[union-attr]
    if jax.process_index() == 0:
        time.sleep(3 * _LOOK_EVERY)  # Process 0 hosts what the others look at.
    leave(status)


def _stop_with_others() -> None:
    while not _leaving.wait(_LOOK_EVERY):
        try:
            failures = global_state.client.key_value_dir_get(_FAILURES)  # type: ignore[union-attr]
        except (RuntimeError, AttributeError):
            return  # The run is over, or the coordinator is lost, which JAX's heartbeat notices.
        for key, message in failures:
            process = int(key.rsplit("/", 1)[-1])
            if process != jax.process_index() and not _leaving.is_set():
                say(f"error: process {process} stopped: {message}")
                leave(USAGE_STATUS)


def leave(status: int) -> NoReturn:
    """End this process at once, without waiting for the other processes of the run."""
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)
