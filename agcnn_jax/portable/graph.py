"""An ONNX graph under construction: nodes are added one after another, and named by what they are.

Values are referred to by their names, as in ONNX itself.
"""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

import agcnn_jax
from agcnn_jax.runtime.errors import UserError, packages_of

try:
    import onnx
    from onnx import TensorProto, helper, numpy_helper
except ModuleNotFoundError:
    raise UserError(f"a model in the format onnx needs {packages_of('onnx')}") from None

OPSET = 18
IR_VERSION = 8
"""Of ONNX 1.13, the first with `OPSET`; seen to run in onnxruntime 1.20 and OpenVINO 2024.5."""

FLOAT, INT32, UINT8, BOOL, INT64 = (
    *(TensorProto.FLOAT, TensorProto.INT32, TensorProto.UINT8),
    *(TensorProto.BOOL, TensorProto.INT64),
)


@dataclasses.dataclass(frozen=True)
class Graph:
    """Nodes and constants so far; `add` and `constant` append to them.

    Attributes:
        nodes: in the order in which they were added.
        constants: by their names.
        prefix: of the nodes' names, to tell a loop's body from what is around it.
    """

    nodes: list[Any] = dataclasses.field(default_factory=list)
    constants: dict[str, Any] = dataclasses.field(default_factory=dict)
    prefix: str = ""

    def add(self, operator: str, *inputs: str, **attributes: Any) -> str:
        """Add a node with one output, and return the output's name."""
        return self.add_all(operator, 1, *inputs, **attributes)[0]

    def add_all(self, operator: str, count: int, *inputs: str, **attributes: Any) -> list[str]:
        """Add a node with `count` outputs, and return their names."""
        name = f"{self.prefix}{operator}_{len(self.nodes)}"
        outputs = [name if i == 0 else f"{name}_{i}" for i in range(count)]
        self.nodes.append(helper.make_node(operator, inputs, outputs, name, **attributes))
        return outputs

    def constant(self, value: Any, dtype: np.typing.DTypeLike = np.float32) -> str:
        """Add a constant, once for equal values, and return its name."""
        array = np.array(value, dtype, order="C")
        kind = f"{array.dtype}{list(array.shape)}"
        name = f"constant_{hashlib.sha256(kind.encode() + array.tobytes()).hexdigest()[:16]}"
        if name not in self.constants:
            self.constants[name] = numpy_helper.from_array(array, name)
        return name

    def integers(self, *values: int) -> str:
        """Add a constant int64 vector."""
        return self.constant(values, np.int64)

    def reshape(self, value: str, *shape: int) -> str:
        """Reshape; -1 is the side that is left, 0 one that stays."""
        return self.add("Reshape", value, self.integers(*shape))

    def part(self, value: str, axis: int, start: int, stop: int | None = None) -> str:
        """Take `[start:stop]` of an axis."""
        end = np.iinfo(np.int64).max if stop is None else stop
        return self.add(
            "Slice", value, self.integers(start), self.integers(end), self.integers(axis)
        )

    def reduce(self, operator: str, value: str, *axes: int, keep: bool = False) -> str:
        """Reduce over axes by `ReduceMax`, `ReduceMean`, `ReduceMin` or `ReduceSum`."""
        return self.add(operator, value, self.integers(*axes), keepdims=int(keep))

    def cast(self, value: str, dtype: int) -> str:
        """Cast to one of this module's types."""
        return self.add("Cast", value, to=dtype)

    def repeat(self, body: Graph, state: str, kind: int) -> str:
        """Repeat a body until it says that it is done.

        Args:
            body: reads `state`, and has the outputs `again`, whether to go on, bool `[]`, and
                `next_state`.
            state: the first one, a vector; it keeps its length.
            kind: its type.
        """
        inputs = [tensor("round", INT64, []), tensor("going", BOOL, [])]
        inputs += [tensor("state", kind, ["length"])]
        outputs = [tensor("again", BOOL, []), tensor("next_state", kind, ["length"])]
        constants = list(body.constants.values())
        made = helper.make_graph(body.nodes, "body", inputs, outputs, initializer=constants)
        return self.add("Loop", "", self.constant(True, bool), state, body=made)

    def rename(self, value: str, name: str) -> None:
        """Give a value the name of an output."""
        self.nodes.append(helper.make_node("Identity", [value], [name], f"{self.prefix}{name}_"))


def serialise(
    graph: Graph,
    inputs: Sequence[Any],
    outputs: Sequence[Any],
    metadata: Mapping[str, str] | None = None,
) -> bytes:
    """Check a model and make its bytes.

    Args:
        graph: all its nodes.
        inputs: made by `tensor`.
        outputs: made by `tensor`.
        metadata: for programs that read the outputs.
    """
    made = helper.make_graph(
        graph.nodes, "agcnn", inputs, outputs, initializer=list(graph.constants.values())
    )
    model = helper.make_model(
        made,
        opset_imports=[helper.make_opsetid("", OPSET)],
        ir_version=IR_VERSION,
        producer_name="agcnn-jax",
        producer_version=agcnn_jax.__version__,
    )
    helper.set_model_props(model, dict(metadata or {}))
    onnx.checker.check_model(model)
    content: bytes = model.SerializeToString()
    return content


def tensor(name: str, dtype: int, shape: Sequence[int | str]) -> Any:
    """Declare an input or output; a side that is text may differ between calls."""
    return helper.make_tensor_value_info(name, dtype, shape)
