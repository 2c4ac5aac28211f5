"""How the processes of a run find each other, and how they end together.

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
from typing import NoReturn

import jax
from jax._src.distributed import global_state  # its client has no public name in jax 0.10.2

from agcnn_jax.runtime import supervisor
from agcnn_jax.runtime.errors import USAGE_STATUS, Stopped, UserError, say
from agcnn_jax.runtime.processes import exchange

_FAILURES = "agcnn_jax/failures/"
_LOOK_EVERY = 2.0  # seconds
_leaving = threading.Event()  # set once this process has announced why the run ends


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
        coordinator_address: HOST:PORT of process 0; None for one process, or if a launcher says it.
        num_processes: number of processes; None as above.
        process_id: number of this process; None as above.
        peer_timeout: seconds without a heartbeat after which a process counts as lost.
        start_timeout: seconds to wait for the others at the start.
        preemptible: True to keep SIGTERM for `stop_requests`; otherwise it ends the process.

    Raises:
        UserError: if JAX rejects the flags, or the processes have different numbers of devices.
        Stopped: if the other processes do not come, or another program holds the port.
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
    if jax.process_count() > 1:
        _check_devices()
        supervisor.tell_hosts(exchange(socket.gethostname()))
        threading.Thread(target=_stop_with_others, daemon=True).start()


def _check_devices() -> None:
    # Before anything is exchanged, which JAX cannot do between unequal processes.
    counts = collections.Counter(device.process_index for device in jax.devices())
    if len(set(counts.values())) > 1:
        listed = ", ".join(f"process {i} {counts[i]}" for i in sorted(counts))
        raise UserError(
            f"processes have different numbers of devices: {listed}; give all processes the same"
        )


def _wait_for_port(coordinator_address: str, start_timeout: int) -> None:
    # A run that is ending may still hold the port. JAX 0.10.2 crashes if it cannot listen, and
    # shares the port with another run of the same user.
    port = int(coordinator_address.rpartition(":")[2])
    end = time.monotonic() + start_timeout
    while True:
        try:
            with socket.create_server(("", port)):
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


def announce(message: str) -> None:
    """Tell the other processes about an error that ends this one, so that they end too."""
    if is_joined():
        _leaving.set()
        # If the coordinator is gone, JAX's heartbeat ends the others.
        with contextlib.suppress(RuntimeError):
            key = f"{_FAILURES}{jax.process_index()}"
            global_state.client.key_value_set(key, message, allow_overwrite=True)  # type: ignore[union-attr]


def wait_for_verdict(error: Exception, peer_timeout: int) -> None:
    """After an error that a lost process may have caused, wait; JAX ends this process if so.

    A broken connection shows at once, the process that broke it only by its missing heartbeat.
    """
    first, unrelated = str(error).split("\n")[0][:200], ("RESOURCE_EXHAUSTED", "INVALID_ARGUMENT")
    if isinstance(error, jax.errors.JaxRuntimeError) and not first.startswith(unrelated):
        say(f"{first}: a lost process may have caused this; waiting {peer_timeout} s to know")
        time.sleep(peer_timeout + 5 * _LOOK_EVERY)


def leave(status: int) -> NoReturn:
    """End this process at once, without waiting for the other processes of the run."""
    if jax.process_index() == 0 and _leaving.is_set():
        time.sleep(3 * _LOOK_EVERY)  # Process 0 hosts the announcement.
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)


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
