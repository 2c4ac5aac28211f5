"""PyTorch's side of `cpu.py` and `gpu.py`: AG-CNN as its ports run it, and the device's limits.

The networks are torchvision's, in channels-last format; where it is missing, those that the tests
compare with. PyTorch's step gets augmented, normalised images, where this project's crops, flips
and normalises in the step.
"""

from __future__ import annotations

import functools
import gc
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from scipy import ndimage
from torch import nn
from torch.nn import functional
from torch.utils.flop_counter import FlopCounterMode

# Not by way of `tests`: some installed packages have a folder of that name.
sys.path.append(str(Path(__file__).resolve().parents[1] / "tests" / "parity"))
import twin

try:
    import torchvision
except (ImportError, RuntimeError):  # absent, or made for another PyTorch
    torchvision = None

LABELS = 15
CROPPED_CHANNELS = 1024
"""Of the feature map from which a cropper starts, as DenseNet-121's."""

TAU = 0.7
MEAN, STD = np.array([0.485, 0.456, 0.406], np.float32), np.array([0.229, 0.224, 0.225], np.float32)
EIGHT_NEIGHBOURS = np.ones((3, 3), int)
Run = Callable[[int], None]  # does so many steps
DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
_runs: dict[str, Run] = {}


def start(memory_share: float) -> dict[str, Any]:
    """Let PyTorch use its fastest settings and a share of the memory; describe the device."""
    torch.backends.cudnn.benchmark = True
    torch.set_float32_matmul_precision("high")  # TF32, as in convolutions
    name, facts = "cpu", {}
    if DEVICE.type == "cuda":
        torch.cuda.set_per_process_memory_fraction(memory_share)
        name = torch.cuda.get_device_name()
    else:
        facts = {"instructions": torch.backends.cpu.get_cpu_capability()}
    versions = {
        "torch": torch.__version__,
        "torchvision": getattr(torchvision, "__version__", None),
    }
    return {"device": name, **facts, **versions}


class LastFeatureMap(nn.Module):
    """A network of the parity tests, without its head."""

    def __init__(self, network: Any):
        super().__init__()
        self.network = network

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Map normalised images `[B, 3, S, S]` to the last feature map `[B, K, h, w]`."""
        return list(self.network.stages(images).values())[-1]


def make_features(backbone: str) -> tuple[nn.Module, int]:
    """Make a backbone without its head, and tell its number of features."""
    if backbone == "resnet_small":
        return LastFeatureMap(twin.ResNet((1, 1, 1, 1), width=16)), 512
    if torchvision is None:
        network = {"resnet50": twin.ResNet, "densenet121": twin.DenseNet}[backbone]()
        return LastFeatureMap(network), network.head.in_features
    if backbone == "resnet50":
        return nn.Sequential(*list(torchvision.models.resnet50().children())[:-2]), 2048
    features = torchvision.models.densenet121().features
    return nn.Sequential(features, nn.ReLU(inplace=True)), 1024


class Branch(nn.Module):
    """The global or the local branch."""

    def __init__(self, backbone: str):
        super().__init__()
        self.features, width = make_features(backbone)
        self.head = nn.Linear(width, LABELS)

    def forward(self, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Map normalised images `[B, 3, S, S]` to feature map, pooled features and logits."""
        feature_map = self.features(images)
        pooled = feature_map.amax((2, 3))
        return feature_map, pooled, self.head(pooled)


def make_model(backbone: str) -> nn.ModuleDict:
    """Make the three branches."""
    model = nn.ModuleDict({"global": Branch(backbone), "local": (local := Branch(backbone))})
    model["fusion"] = nn.Linear(2 * local.head.in_features, LABELS)
    return model


def attend(films: np.ndarray, feature_map: torch.Tensor) -> torch.Tensor:
    """Section III-B as the ports have it: the host crops one image after another.

    Args:
        films: gray levels, uint8 `[B, S, S]`.
        feature_map: `[B, K, h, w]`.

    Returns:
        The local branch's input, float32 `[B, 3, S, S]`.
    """
    size = films.shape[-1]
    crops = []
    for film, activations in zip(films, feature_map.detach().float().cpu().numpy(), strict=True):
        heat = cv2.resize(np.abs(activations).max(axis=0), (size, size))
        mask = heat > heat.min() + TAU * np.ptp(heat)
        labels, count = ndimage.label(mask, EIGHT_NEIGHBOURS)
        region = film
        if count:
            largest = 1 + np.bincount(labels.ravel())[1:].argmax()
            rows, columns = np.nonzero(labels == largest)
            region = film[rows.min() : rows.max() + 1, columns.min() : columns.max() + 1]
        crop = cv2.resize(region, (size, size)).astype(np.float32) / 255
        crops.append(torch.from_numpy((crop[None] - MEAN[:, None, None]) / STD[:, None, None]))
    local_images = torch.stack(crops).to(feature_map.device)
    return local_images.contiguous(memory_format=torch.channels_last)


def logits_of(
    model: Any, images: torch.Tensor, films: np.ndarray, trained: list[str], wanted: list[str]
) -> dict[str, torch.Tensor]:
    """Compute the logits of the `wanted` branches, and gradients for the `trained` ones alone."""
    logits = {}
    with torch.set_grad_enabled("global" in trained):
        feature_map, pooled_global, logits["global"] = model["global"](images)
    if wanted != ["global"]:
        crops = attend(films, feature_map)
        with torch.set_grad_enabled("local" in trained):
            _, pooled_local, logits["local"] = model["local"](crops)
        with torch.set_grad_enabled("fusion" in trained):
            logits["fusion"] = model["fusion"](torch.cat([pooled_global, pooled_local], 1))
    return {branch: logits[branch] for branch in wanted}


def prepare(side: str, case: dict[str, Any]) -> dict[str, Any]:
    """Make the model and a batch, compile if the side says so, and run one step."""
    torch.manual_seed(0)
    size, batch, stage = case["input_size"], case["batch"], case["stage"].split("+")
    model: Any = make_model(case["backbone"])
    model.to(DEVICE, memory_format=torch.channels_last)
    for name, branch in model.items():
        learns = case["part"] == "train" and name in stage
        branch.train(learns).requires_grad_(learns)
    network = dict(model.items())
    if side == "torch_compile":
        for name in ("global", "local"):
            network[name] = torch.compile(model[name], dynamic=False)
    films = np.random.default_rng(0).integers(0, 256, (batch, size, size), np.uint8)
    gray = torch.from_numpy(films).to(DEVICE).float()[:, None].expand(-1, 3, -1, -1) / 255
    images = gray.sub(0.45).div(0.225).contiguous(memory_format=torch.channels_last)
    labels = torch.randint(0, 2, (batch, LABELS), device=DEVICE).float()
    autocast = torch.autocast(DEVICE.type, torch.bfloat16, enabled=case["dtype"] == "bfloat16")

    def predict(steps: int) -> None:
        for _ in range(steps):
            with autocast:
                logits = logits_of(network, images, films, [], stage)
            for value in logits.values():
                value.float().sigmoid()

    if case["part"] == "train":
        parameters = [one for one in model.parameters() if one.requires_grad]
        optimizer = torch.optim.SGD(parameters, 0.01, 0.9, weight_decay=1e-4, fused=True)

    def train(steps: int) -> None:
        for _ in range(steps):
            with autocast:
                logits = logits_of(network, images, films, stage, stage)
            loss = torch.stack(
                [
                    functional.binary_cross_entropy_with_logits(value.float(), labels)
                    for value in logits.values()
                ]
            ).sum()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()

    def crop(steps: int) -> None:
        for _ in range(steps):
            attend(films, feature_map)

    if case["part"] == "crop":
        feature_map = torch.rand(batch, CROPPED_CHANNELS, *[-(-size // 32)] * 2, device=DEVICE)
    work = {"train": train, "predict": predict, "crop": crop}[case["part"]]
    started = time.monotonic()
    work(1)
    wait()
    _runs[side] = work
    peak = torch.cuda.max_memory_allocated() if DEVICE.type == "cuda" else 0
    tidy()
    return {
        "compile_seconds": round(time.monotonic() - started, 1),
        "memory_gib": round(peak / 2**30, 2),
    }


def wait() -> None:
    """Wait for the device."""
    if DEVICE.type == "cuda":
        torch.cuda.synchronize()


def tidy() -> None:
    """Return free memory, which the other side needs in its turn."""
    if DEVICE.type == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()


def run(side: str, steps: int) -> float:
    """Run one step, then time `steps` more; return seconds a step."""
    _runs[side](1)
    wait()
    started = time.perf_counter()
    _runs[side](steps)
    wait()
    seconds = (time.perf_counter() - started) / steps
    tidy()
    return seconds


def forget() -> None:
    """Drop the prepared cases, whose arrays occupy the device."""
    _runs.clear()
    torch._dynamo.reset()  # type: ignore[attr-defined]
    gc.collect()
    tidy()


def flops(case: dict[str, Any]) -> float:
    """Count a case's operations an image, two for each multiplication with its addition.

    Those of the backbones, which cropping alone has none of.
    """
    if case["part"] == "crop":
        return 0.0
    trained = case["stage"].split("+") if case["part"] == "train" else []
    backbones = 1 if case["stage"] == "global" else 2
    with torch.device("meta"):
        branch = Branch(case["backbone"])
        images = torch.zeros(2, 3, case["input_size"], case["input_size"])
    with FlopCounterMode(display=False) as forward, torch.no_grad():
        branch.eval()(images)
    with FlopCounterMode(display=False) as both:
        branch.train()(images)[-1].sum().backward()
    learning = len({"global", "local"} & set(trained))
    total = learning * both.get_total_flops()
    total += (backbones - learning) * forward.get_total_flops()
    return total / len(images)


def peaks(size: int, dtypes: Sequence[str]) -> dict[str, float]:
    """Measure the device: products of matrices of side `size` in TFLOP/s, a copy in GB/s."""
    limits = {}
    for name in dtypes:
        dtype = getattr(torch, name)
        left, right = (torch.randn(size, size, device=DEVICE).to(dtype) for _ in range(2))
        seconds = fastest(functools.partial(torch.matmul, left, right))
        limits[f"{name}_tflops"] = float(f"{2 * size**3 / seconds / 1e12:.5g}")
    source = torch.randn(16 * size, size, device=DEVICE)
    target = torch.empty_like(source)
    seconds = fastest(lambda: target.copy_(source))
    limits["copy_gb_per_second"] = float(f"{2 * source.nbytes / seconds / 1e9:.5g}")
    tidy()
    return limits


def fastest(work: Callable[[], Any], rounds: int = 5, times: int = 10) -> float:
    """Return the seconds that work takes in the fastest of some rounds."""
    seconds = []
    for _ in range(rounds):
        started = time.perf_counter()
        for _ in range(times):
            work()
        wait()
        seconds.append((time.perf_counter() - started) / times)
    return min(seconds)
