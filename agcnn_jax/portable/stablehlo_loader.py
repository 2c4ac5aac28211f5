"""Load the model of this folder with JAX and NumPy, without the program that trained it.

    from load import load

    predict = load()
    answer = predict(images)  # uint8 [B, S, S]; S and the labels are in config.json

JAX needs the package flatbuffers to read a program.
"""

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax import export

PROGRAM, WEIGHTS = "model.stablehlo", "weights.npz"


def load(
    folder: str | Path = Path(__file__).parent, compiler_options: dict[str, Any] | None = None
) -> Callable[..., Any]:
    """Return the function `predict`, which compiles once for each B and each layout on devices.

    `predict` takes B films, gray, whole, resized to S x S pixels: uint8 `[B, S, S]`. It returns a
    dictionary:

    - `logits` and `probabilities`: of each branch under its name, float32 `[B, C]`;
    - `boxes`: of the regions that the local branch read, int32 `[B, 4]`, `xmin, ymin, xmax, ymax`
      in pixels of the model's input, half-open; missing if it reads none;
    - `heat_maps`: of the model's input, float32 `[B, s, s]` in 0..1;
    - `pooled`: features of the global branch, float32 `[B, K]`;
    - `distance`: float32 `[B]`, how unlike the films of the training a film is: unlike all but one
      in a hundred of them from 1 on; missing if that is not known.

    Args:
        folder: the model's.
        compiler_options: for XLA, see README.md.
    """
    folder = Path(folder)
    program = export.deserialize(bytearray((folder / PROGRAM).read_bytes()))
    with np.load(folder / WEIGHTS) as arrays:
        weights = jax.device_put(dict(arrays))
    return functools.partial(jax.jit(program.call, compiler_options=compiler_options), weights)
