"""A model in an ONNX file that looks like an AG-CNN from outside, and is computed by hand."""

import json

import numpy as np
from onnx import TensorProto, helper, numpy_helper

from agcnn_jax.config.keys import DEFAULTS, nest
from agcnn_jax.data.labels import LABELS
from agcnn_jax.inference.model_files import CONFIG, LINEAGE, PROGRAM, write_folder
from agcnn_jax.models import BRANCHES
from agcnn_jax.run.lineage import Lineage

STORED, INPUT, CELLS = 36, 32, 9
SETTINGS = DEFAULTS | {"backbone": "resnet_tiny", "input_size": INPUT, "init": "random"}
MARGIN = (STORED - INPUT) // 2
WEIGHTS = np.random.default_rng(0).normal(size=(3, CELLS, len(LABELS))).astype(np.float32)


def expected(images, tau=0.7):
    """What the model makes of images `[B, S, S]`, by NumPy."""
    gray = images.astype(np.float32) / 255
    pooled = gray.reshape(len(gray), 3, 12, 3, 12).mean((2, 4)).reshape(-1, CELLS)
    heat = gray[:, MARGIN:-MARGIN, MARGIN:-MARGIN]
    mask = heat > tau
    x, y = mask.any(1).argmax(1), mask.any(2).argmax(1)
    outputs = {branch: pooled @ weights for branch, weights in zip(BRANCHES, WEIGHTS, strict=True)}
    boxes = np.stack([x, y, x + 1, y + 1], 1).astype(np.int32)
    return outputs | {"pooled": pooled, "heat_maps": heat, "boxes": boxes}


def stand_in(change=None):
    """Make the file; `change(graph)` may make another model of it."""
    constants = {f"w_{branch}": w for branch, w in zip(BRANCHES, WEIGHTS, strict=True)}
    constants |= {
        "white": np.float32(255),
        "cells": np.array([-1, CELLS], np.int64),
        "one": np.array([1], np.int64),
        "low": np.array([MARGIN, MARGIN], np.int64),
        "high": np.array([STORED - MARGIN] * 2, np.int64),
        "axes": np.array([1, 2], np.int64),
        "unit": np.int32(1),
    }

    def node(kind, inputs, output, **attributes):
        return helper.make_node(kind, inputs.split(), [output], **attributes)

    nodes = [
        node("Cast", "images", "float", to=TensorProto.FLOAT),
        node("Div", "float white", "gray"),
        node("Unsqueeze", "gray one", "channel"),
        node("AveragePool", "channel", "grid", kernel_shape=[12, 12], strides=[12, 12]),
        node("Reshape", "grid cells", "pooled"),
        *(node("MatMul", f"pooled w_{branch}", branch) for branch in BRANCHES),
        node("Slice", "gray low high axes", "heat_maps"),
        node("Greater", "heat_maps tau", "mask"),
        node("Cast", "mask", "above", to=TensorProto.FLOAT),
        *(
            part
            for axis, name in ((1, "x"), (2, "y"))
            for part in (
                node("ReduceMax", f"above axis_{name}", f"any_{name}", keepdims=0),
                node("ArgMax", f"any_{name}", f"long_{name}", axis=1),
                node("Cast", f"long_{name}", name, to=TensorProto.INT32),
                node("Add", f"{name} unit", f"end_{name}"),
            )
        ),
        node("Concat", "x y end_x end_y", "boxes", axis=1),
    ]
    constants |= {"axis_x": np.array([1], np.int64), "axis_y": np.array([2], np.int64)}
    value = helper.make_tensor_value_info
    graph = helper.make_graph(
        nodes,
        "stand_in",
        [
            value("images", TensorProto.UINT8, ["B", STORED, STORED]),
            value("tau", TensorProto.FLOAT, []),
        ],
        [
            *(value(branch, TensorProto.FLOAT, ["B", len(LABELS)]) for branch in BRANCHES),
            value("pooled", TensorProto.FLOAT, ["B", CELLS]),
            value("boxes", TensorProto.INT32, ["B", 4]),
            value("heat_maps", TensorProto.FLOAT, ["B", INPUT, INPUT]),
        ],
        [numpy_helper.from_array(np.asarray(x), name) for name, x in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)
    if change:
        change(model)
    return model.SerializeToString()


def write_stand_in(folder, program=None, config=(), **files):
    """Write such a model to a new folder; `config` and `files` change what is in it."""
    about = {
        "format": 2,
        "digest": "0123456789abcdef",
        "labels": list(LABELS),
        "branches": list(BRANCHES),
        "image_size": STORED,
        "config": nest(SETTINGS),
        **dict(config),
    }
    content = {
        PROGRAM: stand_in() if program is None else program,
        CONFIG: json.dumps(about).encode(),
        LINEAGE: json.dumps(Lineage().to_json()).encode(),
    }
    content |= {name.replace("_", "."): file for name, file in files.items()}
    write_folder(folder, {name: file for name, file in content.items() if file is not None})
    return folder
