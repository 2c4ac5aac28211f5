"""The whole AG-CNN on real radiographs: probabilities of all three branches."""

import jax
import numpy as np
import pytest
import torch
from PIL import Image
from scipy.special import expit

from agcnn_jax.models.agcnn import AGCNN
from agcnn_jax.models.registry import BACKBONES, make_backbone
from agcnn_jax.run.recipe import Recipe
from agcnn_jax.runtime.devices import BATCH_AXIS, device_mesh, replicate, shard_batch
from agcnn_jax.training.predict_step import make_predict_step
from tests.parity import bridge, twin
from tests.support.shared import CHEST_XRAY14

IMAGES = CHEST_XRAY14 / "small" / "images"
CLASSES, BATCH, TAU, MARGIN = 15, 16, 0.7, 16
# Heat maps agree to about 1e-6: a pixel closer to tau than this may fall on either side of it.
ROUNDING = 2e-6


def stored_images(count):
    paths = sorted(IMAGES.glob("*.png"))
    if not paths:
        pytest.skip(f"no real images in {IMAGES}")
    picked = paths if count is None else paths[:: len(paths) // count][:count]
    return np.stack([np.asarray(Image.open(path).convert("L")) for path in picked])


@pytest.mark.parametrize("name", ["resnet50", "densenet121"])
@pytest.mark.parametrize("count", [32, pytest.param(None, marks=pytest.mark.slow)])
def test_probabilities(figure, name, count):
    assert name in BACKBONES
    images = stored_images(count)
    torch.manual_seed(0)
    mean, std = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
    network = twin.AGCNN(
        lambda: bridge.give_statistics(bridge.make_twin(name), 128, 3), mean=mean, std=std
    ).eval()
    centre_heads(network, images[:8])
    backbone = make_backbone(name, BATCH_AXIS)
    variables = bridge.agcnn_variables(network, backbone)
    # Before PyTorch uses the weights, they are exported to its names and loaded back.
    state = bridge.state_of(variables, "all", name, 3)
    network.load_state_dict({key: torch.from_numpy(array) for key, array in state.items()})

    mesh = device_mesh(jax.devices()[:1])
    recipe = Recipe(AGCNN(backbone, CLASSES), 0, 224, None, "max", TAU)
    step = make_predict_step(recipe, mesh, twin.BRANCHES)
    variables = replicate(mesh, variables)
    decided_by_rounding = other_boxes = cropped = 0
    spread = []
    for start in range(0, len(images), BATCH):
        batch = images[start : start + BATCH]
        full = np.concatenate([batch, np.zeros((BATCH - len(batch), 256, 256), np.uint8)])
        ours = jax.device_get(step(variables, shard_batch(mesh, full)))
        expected, boxes = predict_twin(network, batch)
        same = (ours["boxes"][: len(batch)] == boxes).all(axis=1)
        decided_by_rounding += int((~same).sum())
        for tau in (TAU - ROUNDING, TAU + ROUNDING) if not same.all() else ():
            near, near_boxes = predict_twin(network, batch, tau)
            found = ~same & (ours["boxes"][: len(batch)] == near_boxes).all(axis=1)
            for branch in twin.BRANCHES:
                expected[branch][found] = near[branch][found]
            same |= found
        other_boxes += int((~same).sum())
        cropped += int((boxes != [0, 0, 224, 224]).any(axis=1).sum())
        for branch in twin.BRANCHES:
            mine = expit(ours[branch][: len(batch)])
            figure(f"evaluation, {name}, {branch}", np.abs(mine - expected[branch]).max(), 1e-4)
            spread.append(expected[branch])
    figure(f"evaluation, {name}, boxes that differ of {len(images)}", other_boxes, 0)
    figure(f"evaluation, {name}, boxes decided by rounding at tau", decided_by_rounding, 2)
    # The probabilities vary away from 0 and 1, and most crops are smaller than the image.
    assert 0.1 < np.concatenate(spread).std() < 0.4
    assert cropped > len(images) / 2


def centre_heads(network, batch):
    """Scale the linear layers so that logits spread around zero, as in a trained network."""
    with torch.no_grad():
        for branch, logits in twin_logits(network, batch)[0].items():
            head = network[branch].head
            gain = 1.5 / (logits - logits.mean(0)).std()
            head.bias.copy_(gain * (head.bias - logits.mean(0)))
            head.weight.mul_(gain)


def twin_logits(network, batch, tau=TAU):
    images = torch.from_numpy(batch[:, MARGIN:-MARGIN, MARGIN:-MARGIN].astype(np.float32))
    with torch.no_grad():
        feature_map, pooled_global, global_logits = network.branch("global", images)
        local_images, boxes = twin.attend(images, feature_map, tau)
        _, pooled_local, local_logits = network.branch("local", local_images)
        logits = {
            "global": global_logits,
            "local": local_logits,
            "fusion": network.fuse(pooled_global, pooled_local),
        }
    return logits, boxes


def predict_twin(network, batch, tau=TAU):
    logits, boxes = twin_logits(network, batch, tau)
    return {branch: torch.sigmoid(value).numpy() for branch, value in logits.items()}, boxes
