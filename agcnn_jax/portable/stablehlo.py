"""The prediction step as one StableHLO program that JAX runs on CPUs, GPUs and TPUs.

`jax.export` makes it for all three on any machine, for any number of images. Where the step chooses
by platform (max pooling: windows on TPUs, views elsewhere), the program holds both and the choice
is made when it is compiled.
"""

from __future__ import annotations

import contextlib
import io
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

import flatbuffers  # noqa: F401  jax.export writes with it, and looks for it last
import jax
import jax.numpy as jnp
import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict

from agcnn_jax.metrics.feature_distance import FeatureStatistics
from agcnn_jax.models.agcnn import Variables
from agcnn_jax.portable import stablehlo_loader
from agcnn_jax.run.recipe import Recipe
from agcnn_jax.runtime.errors import UserError
from agcnn_jax.training.predict_step import EXTRAS, predict_step

PLATFORMS = ("cpu", "cuda", "tpu")
FILES = (stablehlo_loader.PROGRAM, stablehlo_loader.WEIGHTS, "load.py")


def stablehlo_files(
    variables: Variables,
    recipe: Recipe,
    image_size: int,
    features: FeatureStatistics | None,
    matmul_precision: str | None,
) -> dict[str, bytes]:
    """Make the program, its weights and the module that loads them, by file name.

    Args:
        variables: numpy arrays of all branches that there are.
        recipe: of the run.
        image_size: side S in pixels of the stored images.
        features: how the global branch's pooled features are distributed; None if not known.
        matmul_precision: the run's; the program keeps it whatever its reader's settings are.

    Raises:
        UserError: for a float64 run.
    """
    if recipe.image_dtype != jnp.float32:
        raise UserError(
            f"config.dtype is {recipe.image_dtype}, which JAX computes only where its user has "
            f"allowed it; --format stablehlo exports runs in float32 and bfloat16"
        )
    branches = tuple(variables["params"])

    def predict(weights: Mapping[str, jax.Array], images: jax.Array) -> dict[str, Any]:
        return predict_all(unflatten_dict(weights, sep="."), images, recipe, branches, features)

    weights = flatten_dict(variables, sep=".")
    shapes = {name: jax.ShapeDtypeStruct(x.shape, x.dtype) for name, x in weights.items()}
    (count,) = jax.export.symbolic_shape("B")
    images = jax.ShapeDtypeStruct((count, image_size, image_size), np.uint8)
    with jax.default_matmul_precision(matmul_precision), _without_places():
        program = jax.export.export(jax.jit(predict), platforms=PLATFORMS)(shapes, images)
    stream = io.BytesIO()
    np.savez(stream, **weights)
    loader = Path(stablehlo_loader.__file__).read_bytes()
    contents = (bytes(program.serialize()), stream.getvalue(), loader)
    return dict(zip(FILES, contents, strict=True))


@contextlib.contextmanager
def _without_places() -> Iterator[None]:
    """Keep lines of source out of a program, since their files name folders of this machine."""
    option = "jax_traceback_in_locations_limit"
    before = jax.config.values[option]
    jax.config.update(option, 0)
    try:
        yield
    finally:
        jax.config.update(option, before)


def predict_all(
    variables: Variables,
    images: jax.Array,
    recipe: Recipe,
    branches: Collection[str],
    features: FeatureStatistics | None,
) -> dict[str, Any]:
    """Run `predict_step` on stored images, uint8 `[B, S, S]`, and name its outputs for strangers.

    Returns:
        See `agcnn_jax.portable.stablehlo_loader.load`.
    """
    outputs = predict_step(variables, images, recipe=recipe, branches=branches, extras=EXTRAS)
    logits = {branch: outputs.pop(branch) for branch in branches}
    answer = {"logits": logits, "probabilities": jax.tree.map(jax.nn.sigmoid, logits), **outputs}
    if features is not None:
        answer["distance"] = distances(features, outputs["pooled"]) / features.threshold
    return answer


def distances(features: FeatureStatistics, pooled: jax.Array) -> jax.Array:
    """Compute `feature_distances` of pooled features float32 `[B, K]` inside jit: float32 `[B]`.

    What lies beside the components is projected out first: the difference of two squares that the
    host takes in float64 would lose its digits in float32.
    """
    exact = jax.lax.Precision.HIGHEST
    centred = pooled - features.mean
    along = jnp.matmul(centred, features.components.T, precision=exact)
    beside = centred - jnp.matmul(along, features.components, precision=exact)
    squares = jnp.square(along) / features.variances
    return jnp.sqrt(squares.sum(axis=1) + jnp.square(beside).sum(axis=1) / features.noise)
