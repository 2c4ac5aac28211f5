"""The training step of every stage, and what a batch goes through before it."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import optax
from jax import lax

from agcnn_jax.attention.crop import crop_device
from agcnn_jax.attention.heatmap import heat_map, heat_map_mask
from agcnn_jax.data.augment import Augmentation, augment
from agcnn_jax.models.agcnn import AGCNN, Variables, apply_branch, forward
from agcnn_jax.run.strategies import Stage
from agcnn_jax.runtime.devices import BATCH_AXIS

Batch = Mapping[str, jax.Array]


@flax.struct.dataclass
class TrainState:
    """What a stage changes: the trained branches alone, so that the frozen ones cannot.

    Attributes:
        step: int32 scalar, training steps done in this stage.
        variables: `{"params": {branch: ...}, "batch_stats": {branch: ...}}` of trained branches.
        opt_state: the optimiser's state (momentum) for `variables["params"]`.
    """

    step: jax.Array
    variables: Variables
    opt_state: optax.OptState


@dataclasses.dataclass(frozen=True)
class Recipe:
    """What is static about training steps.

    Attributes:
        model: the model.
        seed: of the run; in a stage's steps the stage's own, of its augmentation.
        input_size: side of the model's input in pixels.
        augmentation: how training images are cropped and flipped.
        statistic: heat map statistic, `max`, `l1` or `l2`.
        tau: threshold of the heat map.
        local_input: `crop`, or `image` for the paper's control experiment, in which the local
            branch reads the whole image too (Section IV-C).
    """

    model: AGCNN
    seed: int
    input_size: int
    augmentation: Augmentation
    statistic: str = "max"
    tau: float = 0.7
    local_input: str = "crop"

    @property
    def image_dtype(self) -> Any:
        """Of the model's input: float32, or float64 in a float64 run."""
        return jnp.promote_types(self.model.backbone.dtype or jnp.float32, jnp.float32)

    @property
    def own_statistics(self) -> bool:
        """Whether each device's BatchNorm normalises by its own share of the batch."""
        return self.model.backbone.axis_name is None

    def for_stage(self, stage: Stage) -> Recipe:
        """Make a stage's recipe, with the stage's own seed, from the run's."""
        return dataclasses.replace(self, seed=stage.seed(self.seed))


def select_branches(variables: Variables, branches: tuple[str, ...]) -> Variables:
    """Take the given branches out of all."""
    return {
        kind: {branch: tree[branch] for branch in tree if branch in branches}
        for kind, tree in variables.items()
    }


def merge_branches(first: Variables, second: Variables) -> Variables:
    """Join two sets of branches; the second wins where both have one."""
    return {kind: {**first[kind], **second[kind]} for kind in first}


def sgd(
    learning_rate: float,
    drop_step: int,
    drop_factor: float,
    momentum: float,
    weight_decay: float,
    warmup_steps: int = 0,
) -> tuple[optax.GradientTransformation, optax.Schedule]:
    """PyTorch's SGD: weight decay on every parameter joins the gradient before the momentum.

    Args:
        learning_rate: at the start, or where the warm-up ends.
        drop_step: number of steps after which it is divided by `drop_factor`.
        drop_factor: see `drop_step`.
        momentum: of the running sum of gradients.
        weight_decay: weight of the parameters in the gradient.
        warmup_steps: number of steps in which it rises, linearly, to `learning_rate`; the first
            one already takes a share (Goyal et al. 2017, Section 2.2).

    Returns:
        The optimiser, and its learning rate as a function of the step.
    """
    steps = optax.piecewise_constant_schedule(learning_rate, {drop_step: 1 / drop_factor})

    def schedule(step: Any) -> Any:
        return steps(step) * jnp.minimum(1.0, (step + 1) / max(warmup_steps, 1))

    optimizer = optax.chain(
        optax.add_decayed_weights(weight_decay),
        optax.trace(momentum),
        optax.scale_by_learning_rate(schedule if warmup_steps else steps),
    )
    return optimizer, schedule if warmup_steps else steps


def init_state(variables: Variables, optimizer: optax.GradientTransformation) -> TrainState:
    """Start a stage from the given variables of its trained branches."""
    return TrainState(
        step=jnp.zeros((), jnp.int32),
        variables=variables,
        opt_state=optimizer.init(variables["params"]),
    )


def binary_cross_entropy(logits: jax.Array, labels: jax.Array) -> jax.Array:
    """Eq. 2, averaged over the labels and over the batch.

    Args:
        logits: `[B, C]`.
        labels: `[B, C]`, 0 or 1.

    Returns:
        float32 scalar (or wider, as the logits).
    """
    return optax.sigmoid_binary_cross_entropy(logits, labels.astype(logits.dtype)).mean()


MADE_BEFORE = ("images", "local_images", "pooled_global")
"""What a batch may hold instead of stored images; see `train_step`."""


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
    are taken of their parameters alone, and frozen branches run in inference mode.

    Args:
        state: of the trained branches.
        frozen: variables of all other branches.
        batch: `labels` `[B, C]`, and either stored images, `image` uint8 `[B, S, S]` with its
            `record` int32 `[B]`, or what was made of them before, as far as the stage reads it:
            `images` and `local_images`, float32 `[B, input_size, input_size]`, and
            `pooled_global`, float32 `[B, K]`; see `localise`.
        recipe: see `Recipe`.
        stage: which branches are trained.
        optimizer: see `sgd`.
        accumulate: number of micro-batches that the share is worked off in, one after another, to
            need the memory of one. The gradient is the whole batch's, but for BatchNorm, which
            normalises each micro-batch by itself and moves its running statistics with each.

    Returns:
        The new state, and `{"loss": ..., "loss_<branch>": ...}` averaged over the whole batch.
    """
    made = {name: batch[name] for name in MADE_BEFORE if name in batch}
    rows = made or {"images": augment_batch(batch, state.step, recipe)}
    rows["labels"] = batch["labels"]

    def loss_of(
        params: Any, batch_stats: Any, part: Batch
    ) -> tuple[jax.Array, tuple[dict[str, jax.Array], Any]]:
        local_images: Any = part.get("local_images")
        if local_images is None and stage.needs_local_images:
            local_images = local_images_of(part["images"], recipe)
        logits, updated = forward(
            recipe.model,
            merge_branches(frozen, {"params": params, "batch_stats": batch_stats}),
            part.get("images"),
            local_images,
            train=stage.branches,
            branches=stage.branches,
            pooled_global=part.get("pooled_global"),
        )
        # Averaging inside the differentiated function makes the gradient that of the whole
        # batch's loss, BatchNorm's exchange between devices included.
        losses = {
            branch: lax.pmean(binary_cross_entropy(branch_logits, part["labels"]), BATCH_AXIS)
            for branch, branch_logits in logits.items()
        }
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
        (loss, (losses, batch_stats)), gradients = gradient_of(params, batch_stats, rows)
    else:
        zeros = jax.tree.map(jnp.zeros_like, params)
        (gradients, batch_stats), per_part = lax.scan(
            add_part, (zeros, batch_stats), split_rows(rows, accumulate)
        )
        gradients = jax.tree.map(lambda gradient: gradient / accumulate, gradients)
        loss, losses = jax.tree.map(jnp.mean, per_part)
    gradients = lax.psum(gradients, BATCH_AXIS)
    if recipe.own_statistics:
        batch_stats = lax.pmean(batch_stats, BATCH_AXIS)

    updates, opt_state = optimizer.update(gradients, state.opt_state, state.variables["params"])
    variables = {
        "params": optax.apply_updates(state.variables["params"], updates),
        "batch_stats": batch_stats,
    }
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


def localise(
    frozen: Variables, batch: Batch, step: jax.Array, *, recipe: Recipe
) -> dict[str, jax.Array]:
    """What the host cropper starts from: augment a batch, run the frozen global branch, threshold.

    Args:
        frozen: variables, the global branch's among them.
        batch: `image` uint8 `[B, S, S]` and `record` int32 `[B]`.
        step: int32 scalar, the step that the batch is for.
        recipe: see `Recipe`.

    Returns:
        `images`, float32 `[B, input_size, input_size]` in 0..255; `masks`, uint8
        `[B, input_size, ceil(input_size / 8)]`, a bit a pixel as `np.packbits` packs them;
        `pooled_global`, float32 `[B, K]`, with which the fusion branch need not run the global
        branch a second time.
    """
    images = augment_batch(batch, step, recipe)
    output, _ = apply_branch(recipe.model, frozen, "global", images, train=False)
    heat = heat_map(output.feature_map, recipe.input_size, recipe.statistic)
    masks = jnp.packbits(heat_map_mask(heat, recipe.tau), axis=-1)
    return {"images": images, "masks": masks, "pooled_global": output.pooled}


def augment_batch(batch: Batch, step: jax.Array, recipe: Recipe) -> jax.Array:
    """Augment a stored batch for a step; see `agcnn_jax.data.augment.augment`."""
    return augment(
        batch["image"].astype(recipe.image_dtype),
        batch["record"],
        step,
        recipe.seed,
        recipe.input_size,
        recipe.augmentation,
    )


def local_images_of(
    images: jax.Array, recipe: Recipe
) -> jax.Array | Callable[[jax.Array], jax.Array]:
    """The local branch's input as `forward` takes it: made on the device from the feature map.

    Args:
        images: `[B, input_size, input_size]`.
        recipe: see `Recipe`.
    """
    if recipe.local_input == "image":
        return images
    return lambda feature_map: crop_device(images, feature_map, recipe.statistic, recipe.tau)[0]
