"""AG-CNN in plain PyTorch, independent of the package, which is compared with it.

Tensors have torchvision's names for ResNet-50 and DenseNet-121, prefixed with `global.`, `local.`
and `fusion.` in an AG-CNN. The attention uses scipy.ndimage on numpy arrays.
"""

from __future__ import annotations

import numpy as np
import torch
from scipy import ndimage
from torch import nn
from torch.nn import functional

BRANCHES = ("global", "local", "fusion")
EIGHT_NEIGHBOURS = np.ones((3, 3), int)


class Bottleneck(nn.Module):
    def __init__(self, channels, width, stride):
        super().__init__()
        self.conv1 = nn.Conv2d(channels, width, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, stride, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.conv3 = nn.Conv2d(width, 4 * width, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(4 * width)
        self.downsample = None
        if stride != 1 or channels != 4 * width:
            self.downsample = nn.Sequential(
                nn.Conv2d(channels, 4 * width, 1, stride, bias=False), nn.BatchNorm2d(4 * width)
            )

    def forward(self, x):
        shortcut = x if self.downsample is None else self.downsample(x)
        x = torch.relu(self.bn1(self.conv1(x)))
        x = torch.relu(self.bn2(self.conv2(x)))
        return torch.relu(self.bn3(self.conv3(x)) + shortcut)


class ResNet(nn.Module):
    """ResNet with torchvision's names; the last of `stages` is the feature map."""

    def __init__(self, blocks=(3, 4, 6, 3), width=64, channels=3, classes=1000):
        super().__init__()
        self.conv1 = nn.Conv2d(channels, width, 7, 2, padding=3, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.layers = []
        inputs = width
        for number, count in enumerate(blocks):
            planes = width * 2**number
            layer = nn.Sequential()
            for block in range(count):
                stride = 2 if number > 0 and block == 0 else 1
                layer.append(Bottleneck(inputs, planes, stride))
                inputs = 4 * planes
            self.layers.append(f"layer{number + 1}")
            self.add_module(self.layers[-1], layer)
        self.fc = nn.Linear(inputs, classes)

    @property
    def head(self):
        return self.fc

    def stages(self, x):
        outputs = {"stem": functional.max_pool2d(torch.relu(self.bn1(self.conv1(x))), 3, 2, 1)}
        x = outputs["stem"]
        for name in self.layers:
            x = outputs[name] = getattr(self, name)(x)
        return outputs


class DenseLayer(nn.Module):
    def __init__(self, channels, growth):
        super().__init__()
        self.norm1 = nn.BatchNorm2d(channels)
        self.conv1 = nn.Conv2d(channels, 4 * growth, 1, bias=False)
        self.norm2 = nn.BatchNorm2d(4 * growth)
        self.conv2 = nn.Conv2d(4 * growth, growth, 3, padding=1, bias=False)

    def forward(self, x):
        new = self.conv2(torch.relu(self.norm2(self.conv1(torch.relu(self.norm1(x))))))
        return torch.cat([x, new], 1)


class Transition(nn.Module):
    def __init__(self, channels):
        super().__init__()
        self.norm = nn.BatchNorm2d(channels)
        self.conv = nn.Conv2d(channels, channels // 2, 1, bias=False)

    def forward(self, x):
        return functional.avg_pool2d(self.conv(torch.relu(self.norm(x))), 2)


class DenseNet(nn.Module):
    def __init__(self, blocks=(6, 12, 24, 16), growth=32, stem=64, channels=3, classes=1000):
        super().__init__()
        self.features = nn.Module()
        self.features.conv0 = nn.Conv2d(channels, stem, 7, 2, padding=3, bias=False)
        self.features.norm0 = nn.BatchNorm2d(stem)
        self.blocks = len(blocks)
        inputs = stem
        for number, count in enumerate(blocks, start=1):
            block = nn.Sequential()
            for layer in range(1, count + 1):
                block.add_module(f"denselayer{layer}", DenseLayer(inputs, growth))
                inputs += growth
            self.features.add_module(f"denseblock{number}", block)
            if number < len(blocks):
                self.features.add_module(f"transition{number}", Transition(inputs))
                inputs //= 2
        self.features.norm5 = nn.BatchNorm2d(inputs)
        self.classifier = nn.Linear(inputs, classes)

    @property
    def head(self):
        return self.classifier

    def stages(self, x):
        features = self.features
        x = torch.relu(features.norm0(features.conv0(x)))
        outputs = {"stem": functional.max_pool2d(x, 3, 2, 1)}
        x = outputs["stem"]
        for number in range(1, self.blocks + 1):
            x = outputs[f"block{number}"] = getattr(features, f"denseblock{number}")(x)
            if number < self.blocks:
                x = getattr(features, f"transition{number}")(x)
                outputs[f"transition{number}"] = x
        outputs["norm5"] = torch.relu(features.norm5(x))
        return outputs


def pool(feature_map, pooling):
    if pooling == "max":
        return functional.adaptive_max_pool2d(feature_map, 1).flatten(1)
    return functional.adaptive_avg_pool2d(feature_map, 1).flatten(1)


class Fusion(nn.Module):
    def __init__(self, features, classes):
        super().__init__()
        self.fc = nn.Linear(2 * features, classes)

    @property
    def head(self):
        return self.fc


class AGCNN(nn.ModuleDict):
    """AG-CNN's three branches; `backbone()` makes each of the first two."""

    def __init__(self, backbone, pooling="max", mean=(0.5,), std=(0.25,)):
        branches = {"global": backbone(), "local": backbone()}
        head = branches["global"].head
        branches["fusion"] = Fusion(head.in_features, head.out_features)
        super().__init__(branches)
        self.pooling = pooling
        self.register_buffer("mean", torch.tensor(mean)[:, None, None], persistent=False)
        self.register_buffer("std", torch.tensor(std)[:, None, None], persistent=False)

    def branch(self, name, images):
        """Compute feature map, pooled features and logits of gray levels `[B, S, S]` in 0..255."""
        x = (images[:, None] / 255 - self.mean) / self.std
        feature_map = list(self[name].stages(x).values())[-1]
        pooled = pool(feature_map, self.pooling)
        return feature_map, pooled, self[name].head(pooled)

    def fuse(self, pooled_global, pooled_local):
        return self["fusion"].head(torch.cat([pooled_global, pooled_local], 1))


def normalised_heat_maps(feature_map, size):
    """Compute Eq. 3, resize, and scale to 0..1: `[B, K, h, w]` to `[B, size, size]`."""
    for response in feature_map.detach().double().abs().amax(1).numpy():
        heat = np.zeros((size, size))
        if response.min() < response.max():
            heat = enlarge(response, size)
            heat = (heat - heat.min()) / (heat.max() - heat.min())
        yield heat.astype(np.float32)


def enlarge(image, size):
    """Resize bilinearly, `[h, w]` to `[size, size]`: half-pixel centres, clamped edges."""
    tensor = torch.from_numpy(np.ascontiguousarray(image))[None, None]
    return functional.interpolate(tensor, (size, size), mode="bilinear", align_corners=False)[
        0, 0
    ].numpy()


def region_box(mask):
    """Return the box of the largest 8-connected component; the first in raster order wins ties."""
    labels, count = ndimage.label(mask, EIGHT_NEIGHBOURS)
    height, width = mask.shape
    if count == 0:
        return np.array([0, 0, width, height])
    areas = np.bincount(labels.ravel(), minlength=count + 1)[1:]
    largest = 1 + np.flatnonzero(areas == areas.max())
    first = min(largest, key=lambda label: np.flatnonzero(labels.ravel() == label)[0])
    rows, columns = ndimage.find_objects(labels == first, max_label=1)[0]
    return np.array([columns.start, rows.start, columns.stop, rows.stop])


def attend(images, feature_map, tau):
    """Apply Section III-B to gray levels `[B, S, S]`: local images and boxes."""
    heat_maps = normalised_heat_maps(feature_map, images.shape[-1])
    boxes = np.stack([region_box(heat > tau) for heat in heat_maps])
    return crop(images, boxes), boxes


def crop(images, boxes):
    """Crop boxes `[B, 4]` from gray levels `[B, S, S]` and resize the crops to S."""
    size = images.shape[-1]
    return torch.from_numpy(
        np.stack(
            [
                enlarge(image[ymin:ymax, xmin:xmax], size)
                for image, (xmin, ymin, xmax, ymax) in zip(images.numpy(), boxes, strict=True)
            ]
        )
    )
