"""PyTorch's side of benchmarks/cpu.py and gpu.py does what this project's side does."""

import sys

import jax.numpy as jnp
import numpy as np
import pytest
import torch

from agcnn_jax.attention.attend import attend
from tests.support.programs import ROOT

sys.path.append(str(ROOT / "benchmarks"))
import side_torch


def test_both_sides_crop_the_same_regions():
    rng = np.random.default_rng(0)
    films = rng.integers(0, 256, (16, 64, 64), np.uint8)
    features = rng.random((16, 4, 4, 32), np.float32) ** 8
    made = side_torch.attend(films, torch.from_numpy(features.transpose(0, 3, 1, 2).copy()))
    wanted = attend(jnp.asarray(films, jnp.float32), jnp.asarray(features), "max", side_torch.TAU)
    gray = made.numpy().transpose(0, 2, 3, 1) * side_torch.STD + side_torch.MEAN
    # OpenCV rounds to whole gray levels, by way of weights of 11 bits.
    np.testing.assert_allclose(
        255 * gray, np.asarray(wanted.local_images)[..., None].repeat(3, -1), atol=1.0
    )


@pytest.mark.parametrize(
    ("backbone", "products"), [("resnet50", 4.089e9), ("densenet121", 2.834e9)]
)
def test_operations_of_the_backbones(backbone, products):
    """torchvision's documentation gives these numbers of multiplications with addition."""
    case = {"backbone": backbone, "input_size": 224, "part": "predict"}
    both = side_torch.flops({**case, "stage": "global+local+fusion"})
    np.testing.assert_allclose(both, 2 * 2 * products, rtol=0.002)
    train = side_torch.flops({**case, "part": "train", "stage": "global"})
    assert 2.9 < train / (2 * products) < 3.0  # no gradient of the first convolution's input
