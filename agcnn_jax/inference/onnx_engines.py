"""The programs that compute an ONNX file on CPUs: OpenVINO and onnxruntime."""

from __future__ import annotations

import contextlib
import ctypes
import dataclasses
import importlib.util
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from agcnn_jax.inference import ENGINES, PRECISIONS
from agcnn_jax.runtime.errors import UserError, packages_of
from agcnn_jax.runtime.machine import available_cores

_LARGEST = (1 << 31) - 1
"""Bytes of the largest ONNX file, a limit of protobuf."""

_IN_OTHER_FILES = b"\n\x08location"
"""How an ONNX file begins the name of another file with weights: the key of an entry."""


class Port(NamedTuple):
    """An input or an output: its dtype, and its shape with None where that is not fixed."""

    dtype: str
    shape: tuple[int | None, ...]


@dataclasses.dataclass(frozen=True)
class Engine:
    """An ONNX file, ready to run.

    Attributes:
        inputs: by their names; only those that have no default.
        outputs: by their names.
        run: takes arrays by the names of inputs, and the names of the outputs wanted; returns
            arrays that belong to the caller. One thread may run it at a time.
    """

    inputs: Mapping[str, Port]
    outputs: Mapping[str, Port]
    run: Callable[[Mapping[str, np.ndarray], Sequence[str]], dict[str, np.ndarray]]


def choose_engine(engine: str | None, precision: str) -> str:
    """Return the engine to use: the one that was asked for, or the first that is installed.

    Raises:
        UserError: it is not installed, or does not compute in this precision.
    """
    if engine not in (None, *ENGINES):
        raise UserError(f"engine {engine!r} is none of {', '.join(ENGINES)}")
    if precision not in PRECISIONS:
        raise UserError(f"precision {precision!r} is none of {', '.join(PRECISIONS)}")
    if precision == "bfloat16":
        if engine == "onnxruntime":
            raise UserError(
                "--precision bfloat16: onnxruntime computes in float32 alone; give --engine "
                "openvino, or leave --precision out"
            )
        engine = "openvino"
    wanted = ENGINES if engine is None else (engine,)
    for name in wanted:
        if importlib.util.find_spec(name):
            return name
    extra = "openvino" if engine == "openvino" else "onnx"
    raise UserError(
        f"an ONNX model needs {' or '.join(wanted)}, which is not installed: install "
        f"{packages_of(extra)}"
    )


def start(program: bytes, path: str, engine: str, precision: str) -> Engine:
    """Make an ONNX file ready to run, with a thread for each core of this process.

    Args:
        program: the content of the file.
        path: of the file, for messages.
        engine: of `ENGINES`, and installed.
        precision: of `PRECISIONS`; the engine computes in it, and returns float32.

    Raises:
        UserError: the engine cannot read it, or this processor does not compute in the precision.
    """
    if len(program) > _LARGEST:
        raise UserError(f"{path} has {len(program):,} bytes, too many for an ONNX file")
    # OpenVINO would look for these files in the working directory.
    if _IN_OTHER_FILES in program:
        raise UserError(f"{path} keeps weights in other files; export the model again")
    try:
        return (_openvino if engine == "openvino" else _onnxruntime)(program, precision)
    except UserError:
        raise
    except Exception as error:  # neither has a class for a file that it cannot read
        raise UserError(
            f"{path} cannot be read by {engine} ({brief(error)}); copy or download the folder "
            f"again, or export the model again"
        ) from error


def brief(error: Exception) -> str:
    """Return one short line of what an engine says at length."""
    lines = [line.strip() for line in str(error).splitlines()]
    said = [line for line in lines if line and not line.startswith("Exception from ")]
    return (said or [type(error).__name__])[0][:200]


def version(engine: str) -> str:
    """Return the engine's name and version, as in `onnxruntime 1.32.0`."""
    from importlib import metadata

    return f"{engine} {metadata.version(engine)}"


def import_openvino() -> Any:
    """Import OpenVINO without its telemetry.

    When it is imported, OpenVINO 2026.4 reports so to a server of Google's, unless the package
    openvino_telemetry is missing. Where films are predicted, no program may call anyone.
    """
    known = sys.modules.get("openvino_telemetry")
    sys.modules["openvino_telemetry"] = None  # type: ignore[assignment]  # importing it fails
    try:
        import openvino
    finally:
        if known is None:
            del sys.modules["openvino_telemetry"]
        else:
            sys.modules["openvino_telemetry"] = known
    return openvino


class _SignalStack(ctypes.Structure):
    """Linux's `stack_t`."""

    _fields_ = (
        ("pointer", ctypes.c_void_p),
        ("flags", ctypes.c_int),
        ("size", ctypes.c_size_t),
    )


@contextlib.contextmanager
def _same_signal_stack() -> Iterator[None]:
    """Keep the alternate stack on which this thread handles signals.

    OpenVINO 2026.4 installs one of its own for each model. When the model is freed, it puts back
    the one that it found, which may belong to an older model and be freed already; the next
    signal, such as SIGTERM, then crashes the program.
    """
    if not sys.platform.startswith("linux"):
        yield
        return
    system, before = ctypes.CDLL(None), _SignalStack()
    system.sigaltstack(None, ctypes.byref(before))
    try:
        yield
    finally:
        system.sigaltstack(ctypes.byref(before), None)


def _onnxruntime(program: bytes, precision: str) -> Engine:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = available_cores()
    options.log_severity_level = 4  # it also raises what it logs
    # Idle threads would take the cores from the processes that decode.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    # It would announce on standard output that it tries a file that it cannot read once more.
    session = onnxruntime.InferenceSession(
        program, options, providers=["CPUExecutionProvider"], enable_fallback=0
    )

    def ports(nodes: Any) -> dict[str, Port]:
        return {
            node.name: Port(
                {"tensor(float)": "float32"}.get(node.type, node.type[len("tensor(") : -1]),
                tuple(size if isinstance(size, int) else None for size in node.shape),
            )
            for node in nodes
        }

    def run(given: Mapping[str, np.ndarray], wanted: Sequence[str]) -> dict[str, np.ndarray]:
        return dict(zip(wanted, session.run(list(wanted), dict(given)), strict=True))

    return Engine(ports(session.get_inputs()), ports(session.get_outputs()), run)


def _openvino(program: bytes, precision: str) -> Engine:
    core = import_openvino().Core()
    if precision == "bfloat16" and "BF16" not in core.get_property(
        "CPU", "OPTIMIZATION_CAPABILITIES"
    ):
        raise UserError(
            "--precision bfloat16: OpenVINO does not compute in it on this processor "
            f"({core.get_property('CPU', 'FULL_DEVICE_NAME')}); leave --precision out"
        )
    settings = {
        "INFERENCE_PRECISION_HINT": {"float32": "f32", "bfloat16": "bf16"}[precision],
        "INFERENCE_NUM_THREADS": available_cores(),
        "PERFORMANCE_HINT": "LATENCY",  # all threads work on one batch
    }
    with _same_signal_stack():
        compiled = core.compile_model(core.read_model(program), "CPU", settings)
        request = compiled.create_infer_request()

    def port(node: Any) -> Port:
        sizes = tuple(one.get_length() if one.is_static else None for one in node.partial_shape)
        return Port(np.dtype(node.element_type.to_dtype()).name, sizes)

    def run(given: Mapping[str, np.ndarray], wanted: Sequence[str]) -> dict[str, np.ndarray]:
        # In a thread of OpenVINO's: `infer` would keep memory for each thread that ever called it.
        request.start_async(dict(given))
        request.wait()
        # The next run writes to the same memory.
        return {name: request.get_tensor(name).data.copy() for name in wanted}

    # One tensor may have the names of several that are the same.
    return Engine(
        {node.get_node().get_friendly_name(): port(node) for node in compiled.inputs},
        {name: port(node) for node in compiled.outputs for name in node.names},
        run,
    )
