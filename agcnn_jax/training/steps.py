"""The training step of every stage, and localisation for the host cropper."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import optax
from jax import lax

from agcnn_jax.config.strategies import Stage
from agcnn_jax.data.labels import MISSING
from agcnn_jax.models.agcnn import Variables, apply_branch, forward, merge_branches, select_branches
from agcnn_jax.run.recipe import Recipe
from agcnn_jax.runtime.devices import BATCH_AXIS
from agcnn_jax.training.inputs import attend_inputs, attended, training_inputs

Batch = Mapping[str, Any]


@flax.struct.dataclass
class TrainState:
    """What a stage changes: the trained branches alone, so that the frozen ones cannot."""

    step: jax.Array  # int32 scalar, training steps done in this stage
    variables: Variables  # of the trained branches
    opt_state: optax.OptState


def init_state(variables: Variables, optimizer: optax.GradientTransformation) -> TrainState:
    """Start a stage from the given variables of its trained branches."""
    return TrainState(jnp.zeros((), jnp.int32), variables, optimizer.init(variables["params"]))


def binary_cross_entropy(logits: jax.Array, labels: jax.Array) -> jax.Array:
    """Eq. 2 of logits `[B, C]` and labels `[B, C]`, averaged; a scalar of the logits' dtype.

    All labels must be known. `ValueError` if one is `MISSING`, where `jax.jit` does not hide them.
    """
    if not isinstance(labels, jax.core.Tracer) and (labels == MISSING).any():
        raise ValueError("labels are missing; sum their losses with known_cross_entropy")
    return optax.sigmoid_binary_cross_entropy(logits, labels.astype(logits.dtype)).mean()


def known_cross_entropy(logits: jax.Array, labels: jax.Array) -> jax.Array:
    """Eq. 2 of logits `[B, C]`, summed over the labels `[B, C]` that are known; a scalar.

    Logits whose labels are `MISSING` change neither the sum nor its gradient, even if they are NaN.
    """
    known = labels != MISSING
    # The logits too: the gradient of a NaN is NaN, even times 0.
    logits, labels = jnp.where(known, logits, 0), jnp.where(known, labels, 0)
    losses = optax.sigmoid_binary_cross_entropy(logits, labels.astype(logits.dtype))
    return losses.sum(where=known)


def train_step(
    state: TrainState,
    frozen: Variables,
    batch: Batch,
    *,
    recipe: Recipe,
    stage: Stage,
    optimizer: optax.GradientTransformation,
    accumulate: int = 1,
) -> tuple[TrainState, dict[str, jax.Array]]:
    """One step of a stage on one device's share of the batch, averaged over the axis `batch`.

    The loss is the sum of the binary cross entropies of the trained branches (Eq. 2); gradients
    are taken of their parameters alone, and frozen branches run in inference mode. If the recipe
    says that labels may be missing, a branch's cross entropy is the sum over the known labels of
    the whole batch, divided by their number; 0 without any.

    The batch holds stored images, `image` uint8 `[B, S, S]` with `record` int32 `[B]` and `labels`
    `[B, C]`; or, from the host cropper, `local_images` float32 `[B, s, s]` and `pooled_global`
    float32 `[B, K]` with the labels. `frozen` are the variables of all branches not trained.

    The share is worked off in `accumulate` micro-batches, one after another, to need the memory of
    one. The gradient is the whole batch's, but for BatchNorm, which normalises each micro-batch by
    itself and moves its running statistics with each.

    Returns:
        The new state, and `{"loss": ..., "loss_<branch>": ...}` averaged over the whole batch.
    """
    if "image" in batch:
        inputs = training_inputs(batch, state.step, recipe)
        batch = {"inputs": inputs, "labels": batch["labels"]}
    if recipe.missing_labels:
        # Devices and micro-batches know different numbers of labels, so means are never averaged.
        known = lax.psum((batch["labels"] != MISSING).sum(), BATCH_AXIS)

    def branch_loss(logits: jax.Array, labels: jax.Array) -> jax.Array:
        if recipe.missing_labels:
            return lax.psum(known_cross_entropy(logits, labels), BATCH_AXIS) / jnp.maximum(known, 1)
        return lax.pmean(binary_cross_entropy(logits, labels), BATCH_AXIS)

    def loss_of(
        params: Any, batch_stats: Any, part: Batch
    ) -> tuple[jax.Array, tuple[dict[str, jax.Array], Any]]:
        logits, updated = forward(
            recipe.model,
            merge_branches(frozen, {"params": params, "batch_stats": batch_stats}),
            part["inputs"].images if "inputs" in part else None,
            part.get("local_images", lambda features: attended(part["inputs"], features, recipe)),
            train=stage.branches,
            branches=stage.branches,
            pooled_global=part.get("pooled_global"),
        )
        # Averaging inside the differentiated function makes the gradient that of the whole
        # batch's loss, BatchNorm's exchange between devices included.
        losses = {branch: branch_loss(each, part["labels"]) for branch, each in logits.items()}
        new_stats = select_branches(updated, stage.branches)["batch_stats"]
        return sum(losses.values(), jnp.zeros(())), (losses, new_stats)

    gradient_of = jax.value_and_grad(loss_of, has_aux=True)
    # Each device differentiates by its own copy, so that the sum over the devices is taken once,
    # at the end, and not in every micro-batch.
    params = lax.pcast(state.variables["params"], BATCH_AXIS, to="varying")

    def add_part(carry: Any, part: Batch) -> tuple[Any, tuple[jax.Array, dict[str, jax.Array]]]:
        total, batch_stats = carry
        (loss, (losses, batch_stats)), gradients = gradient_of(params, batch_stats, part)
        return (jax.tree.map(jnp.add, total, gradients), batch_stats), (loss, losses)

    batch_stats = state.variables["batch_stats"]
    if recipe.own_statistics:
        batch_stats = lax.pcast(batch_stats, BATCH_AXIS, to="varying")
    if accumulate == 1:
        (loss, (losses, batch_stats)), gradients = gradient_of(params, batch_stats, batch)
    else:
        zeros = jax.tree.map(jnp.zeros_like, params)
        (gradients, batch_stats), per_part = lax.scan(
            add_part, (zeros, batch_stats), split_rows(batch, accumulate)
        )
        if recipe.missing_labels:
            # Each part's sum has been divided by the whole batch's number of known labels.
            loss, losses = jax.tree.map(jnp.sum, per_part)
        else:
            gradients = jax.tree.map(lambda gradient: gradient / accumulate, gradients)
            loss, losses = jax.tree.map(jnp.mean, per_part)
    gradients = lax.psum(gradients, BATCH_AXIS)
    if recipe.own_statistics:
        batch_stats = lax.pmean(batch_stats, BATCH_AXIS)

    updates, opt_state = optimizer.update(gradients, state.opt_state, state.variables["params"])
    new_params = optax.apply_updates(state.variables["params"], updates)
    variables = {"params": new_params, "batch_stats": batch_stats}
    metrics = {"loss": loss, **{f"loss_{branch}": value for branch, value in losses.items()}}
    return TrainState(state.step + 1, variables, opt_state), metrics


def split_rows(rows: Batch, parts: int) -> Batch:
    """Deal rows `[B, ...]` out to micro-batches `[parts, B / parts, ...]`, in turn.

    In turn, so that a micro-batch of all devices together holds the same images however many
    devices share the batch: row i is of micro-batch `i % parts` in every share.
    """
    return jax.tree.map(
        lambda x: jnp.swapaxes(x.reshape(-1, parts, *x.shape[1:]), 0, 1), dict(rows)
    )


def attended_masks(
    frozen: Variables, batch: Batch, step: jax.Array, *, recipe: Recipe
) -> dict[str, jax.Array]:
    """Augment a batch and threshold its heat maps, for the host to find the regions.

    The batch holds `image` uint8 `[B, S, S]` and `record` int32 `[B]`; `step`, an int32 scalar, is
    the step that it is for; `frozen` includes the global branch.

    Returns:
        `images`, float32 `[B, s, s]` in 0..255, s the input size; `masks`, uint8
        `[B, s, ceil(s / 8)]`, a bit a pixel as `np.packbits` packs them; `pooled_global`, float32
        `[B, K]`. If crops are cut from the stored images, their `windows` and `mirrored` (see
        `Stored`) take the place of `images`.
    """
    inputs = training_inputs(batch, step, recipe)
    output, _ = apply_branch(recipe.model, frozen, "global", inputs.images, train=False)
    mask = attend_inputs(inputs, output.feature_map, recipe).mask
    made = {"masks": jnp.packbits(mask, axis=-1), "pooled_global": output.pooled}
    if inputs.stored is None:
        return {"images": inputs.images, **made}
    return {"windows": inputs.stored.windows, "mirrored": inputs.stored.mirrored, **made}
