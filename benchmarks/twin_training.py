"""Training the PyTorch twin of AG-CNN by a config, as a PyTorch user writes it for a CPU.

The network and the attention are those of `tests/parity/twin.py`. Weights, the order of images,
crops and flips come from PyTorch's own generator: seed it with `torch.manual_seed`.
"""

from __future__ import annotations

import copy
import dataclasses
import math
import sys
import time
from pathlib import Path
from typing import Any

import ml_collections
import numpy as np
import torch
from sklearn.metrics import roc_auc_score
from torch import nn
from torch.nn import functional

from agcnn_jax.data.augment import centre_box
from agcnn_jax.runtime.errors import UserError

# Not by way of `tests`: some installed packages have a folder of that name.
sys.path.append(str(Path(__file__).resolve().parents[1] / "tests" / "parity"))
import twin

BACKBONES: dict[str, Any] = {
    "resnet50": twin.ResNet,
    "densenet121": twin.DenseNet,
    "resnet_small": lambda **sizes: twin.ResNet((1, 1, 1, 1), width=16, **sizes),
    "resnet_tiny": lambda **sizes: twin.ResNet((1, 1, 1), width=16, **sizes),
}
ATTEMPTS = 10
"""Draws after which RandomResizedCrop takes the whole image."""


@dataclasses.dataclass(frozen=True)
class Subset:
    """The images of a subset, in memory."""

    images: torch.Tensor  # uint8 [N, S, S]
    labels: torch.Tensor  # float32 [N, C]


@dataclasses.dataclass(frozen=True)
class Plan:
    """How the stage of one branch trains."""

    branch: str
    batch_size: int
    epochs: int
    steps_per_epoch: int  # whole batches; the rest of an epoch's images is dropped
    learning_rate: float
    drop_step: int  # steps taken before the learning rate drops


def make_plan(config: ml_collections.ConfigDict, branch: str, images: int) -> Plan:
    """Derive a stage from the config; `UserError` if the `images` do not fill a batch."""

    def of_branch(key: str) -> Any:
        values = tuple(config[key])
        return values[twin.BRANCHES.index(branch)] if len(values) > 1 else values[0]

    batch_size, epochs = of_branch("batch_size"), of_branch("epochs")
    steps = images // batch_size
    if not steps:
        raise UserError(
            f"config.batch_size of the {branch} branch is {batch_size}, but there are {images} "
            "training images; use a smaller batch or more images"
        )
    drop_step = round(config.drop_after * epochs * steps)
    return Plan(branch, batch_size, epochs, steps, of_branch("learning_rate"), drop_step)


def make_network(config: ml_collections.ConfigDict, labels: int) -> Any:
    """Make the three branches with random weights, as torchvision draws them."""
    backbone = BACKBONES[config.backbone]
    network = twin.AGCNN(
        lambda: backbone(channels=len(config.mean), classes=labels),
        config.pooling,
        tuple(config.mean),
        tuple(config.std),
    )
    # torchvision's DenseNet leaves kaiming_normal_ at its default, fan_in.
    mode: Any = "fan_in" if config.backbone.startswith("densenet") else "fan_out"
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode=mode, nonlinearity="relu")
    return network.to(memory_format=torch.channels_last)


def make_optimizer(
    network: Any, config: ml_collections.ConfigDict, plan: Plan
) -> tuple[torch.optim.Optimizer, torch.optim.lr_scheduler.LRScheduler]:
    """Make a stage's SGD and its learning rate, which is set once a step."""
    optimizer = torch.optim.SGD(
        network[plan.branch].parameters(),
        plan.learning_rate,
        momentum=config.momentum,
        weight_decay=config.weight_decay,
        fused=True,
    )
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: 1.0 if step < plan.drop_step else 1 / config.drop_factor
    )
    return optimizer, schedule


def random_box(
    stored: int, scale: tuple[float, float], ratio: tuple[float, float]
) -> tuple[int, int, int, int]:
    """Draw top, left, height and width of a crop, as torchvision's RandomResizedCrop does."""
    for _ in range(ATTEMPTS):
        area = stored**2 * torch.empty(()).uniform_(*scale).item()
        aspect = math.exp(torch.empty(()).uniform_(math.log(ratio[0]), math.log(ratio[1])).item())
        width, height = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
        if 0 < width <= stored and 0 < height <= stored:
            top = int(torch.randint(stored - height + 1, ()))
            left = int(torch.randint(stored - width + 1, ()))
            return top, left, height, width
    return 0, 0, stored, stored


def resize(images: torch.Tensor, size: int) -> torch.Tensor:
    """Resize `[B, h, w]` to float32 `[B, size, size]`, as torchvision's transforms do."""
    return functional.interpolate(
        images[:, None].float(), (size, size), mode="bilinear", antialias=True
    )[:, 0]


def augment(images: torch.Tensor, config: ml_collections.ConfigDict) -> torch.Tensor:
    """Crop, resize and flip stored images at random: uint8 `[B, S, S]` to float32 `[B, s, s]`."""
    size, settings = config.input_size, config.augment
    result = torch.empty(len(images), size, size)
    for row, image in zip(result, images, strict=True):
        top, left, height, width = random_box(len(image), settings.scale, settings.ratio)
        row.copy_(resize(image[None, top : top + height, left : left + width], size)[0])
    if settings.flip:
        mirrored = torch.rand(len(images)) < 0.5
        result[mirrored] = result[mirrored].flip(-1)
    return result


def centre_crop(images: torch.Tensor, size: int) -> torch.Tensor:
    """Crop the centre of stored images for evaluation: uint8 `[B, S, S]` to float32 `[B, s, s]`."""
    low, _, high, _ = centre_box(images.shape[-1])
    return resize(images[:, low:high, low:high], size)


def forward(
    network: Any, images: torch.Tensor, tau: float, wanted: tuple[str, ...], trained: str = ""
) -> dict[str, torch.Tensor]:
    """Compute logits `[B, C]` of the `wanted` branches, with a graph for the `trained` one alone.

    `images` are gray levels, float32 `[B, s, s]` in 0..255.
    """
    logits = {}
    with torch.set_grad_enabled(trained == "global"):
        feature_map, pooled_global, logits["global"] = network.branch("global", images)
    if wanted != ("global",):
        local_images, _ = twin.attend(images, feature_map, tau)
        with torch.set_grad_enabled(trained == "local"):
            _, pooled_local, logits["local"] = network.branch("local", local_images)
        with torch.set_grad_enabled(trained == "fusion"):
            logits["fusion"] = network.fuse(pooled_global, pooled_local)
    return {branch: logits[branch] for branch in wanted}


def predict(
    network: Any, images: torch.Tensor, config: ml_collections.ConfigDict, wanted: tuple[str, ...]
) -> dict[str, np.ndarray]:
    """Compute logits, float32 `[N, C]` a branch, of the centre crops of uint8 `[N, S, S]`."""
    network.eval()
    batches = [
        forward(network, centre_crop(batch, config.input_size), config.attention.tau, wanted)
        for batch in images.split(config.eval_batch_size)
    ]
    return {branch: torch.cat([one[branch] for one in batches]).numpy() for branch in wanted}


def score(labels: np.ndarray, logits: np.ndarray, findings: dict[str, int]) -> dict[str, Any]:
    """Compute the AUC of each finding, None where it has one class only, and the others' mean.

    Args:
        labels: 0 or 1, `[N, C]`.
        logits: `[N, C]`.
        findings: each finding's column.

    Raises:
        UserError: if no finding has both classes.
    """
    aucs = {
        name: float(roc_auc_score(labels[:, column], logits[:, column]))
        if 0 < labels[:, column].sum() < len(labels)
        else None
        for name, column in findings.items()
    }
    present = [auc for auc in aucs.values() if auc is not None]
    if not present:
        raise UserError("config.data.dir: no finding has an AUC in a subset; use more images")
    return {"auc": aucs, "mean": float(np.mean(present))}


def train_batches(
    network: Any,
    plan: Plan,
    optimizer: torch.optim.Optimizer,
    schedule: torch.optim.lr_scheduler.LRScheduler,
    train: Subset,
    order: torch.Tensor,
    config: ml_collections.ConfigDict,
) -> None:
    """Take a step with each batch of `order`, image numbers `[n * batch_size]`."""
    network[plan.branch].train()
    for rows in order.split(plan.batch_size):
        images = augment(train.images[rows], config)
        logits = forward(network, images, config.attention.tau, (plan.branch,), plan.branch)
        loss = functional.binary_cross_entropy_with_logits(logits[plan.branch], train.labels[rows])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()


def freeze_others(network: Any, plan: Plan) -> None:
    """Prepare a stage: frozen branches run in inference mode and need no gradient."""
    network.eval().requires_grad_(False)
    network[plan.branch].requires_grad_(True)


def train_stage(
    network: Any,
    plan: Plan,
    train: Subset,
    validation: Subset,
    config: ml_collections.ConfigDict,
    findings: dict[str, int],
) -> dict[str, Any]:
    """Train one branch, and leave it with the weights of its best epoch, the first of equal ones.

    Returns:
        The best epoch (from 1) and its mean validation AUC, the images that training read, and the
        seconds that training and validation took: on the clock, and of all cores together.
    """
    branch, wanted = network[plan.branch], (plan.branch,)
    freeze_others(network, plan)
    optimizer, schedule = make_optimizer(network, config, plan)
    best: dict[str, Any] = {"best_val_auc_mean": -1.0}
    weights: dict[str, Any] = {}
    clock, cores, validating = time.perf_counter(), time.process_time(), 0.0
    for epoch in range(1, plan.epochs + 1):
        order = torch.randperm(len(train.images))[: plan.steps_per_epoch * plan.batch_size]
        train_batches(network, plan, optimizer, schedule, train, order, config)
        started = time.perf_counter()
        logits_of_epoch = predict(network, validation.images, config, wanted)[plan.branch]
        mean = score(validation.labels.numpy(), logits_of_epoch, findings)["mean"]
        if mean > best["best_val_auc_mean"]:
            best = {"best_epoch": epoch, "best_val_auc_mean": mean}
            weights = copy.deepcopy(branch.state_dict())
        validating += time.perf_counter() - started
    branch.load_state_dict(weights)
    return {
        **best,
        "epochs": plan.epochs,
        "images": plan.epochs * plan.steps_per_epoch * plan.batch_size,
        "seconds": round(time.perf_counter() - clock, 1),
        "validation_seconds": round(validating, 1),
        "core_seconds": round(time.process_time() - cores, 1),
    }
