"""Conversion of the twin's weights by the package's own code, and measures of difference."""

import jax
import numpy as np
import torch

from agcnn_jax.interop.convert import convert_branch, convert_fusion, head_state, torch_state
from agcnn_jax.interop.export import state_of
from agcnn_jax.interop.read import TensorFile
from agcnn_jax.models.densenet import DenseNet
from agcnn_jax.models.resnet import ResNet
from tests.parity import twin

# The package's module, the twin's module, and the arguments of both.
RESNET50 = {"blocks": (3, 4, 6, 3), "width": 64}
DENSENET121 = {"blocks": (6, 12, 24, 16), "growth": 32, "stem": 64}
SMALL_RESNET = {"blocks": (1, 1, 1), "width": 16}
SMALL_DENSENET = {"blocks": (2, 3, 2), "growth": 8, "stem": 16}
PAIRS = {
    "resnet50": (ResNet, twin.ResNet, RESNET50),
    "densenet121": (DenseNet, twin.DenseNet, DENSENET121),
    "small resnet": (ResNet, twin.ResNet, SMALL_RESNET),
    "small densenet": (DenseNet, twin.DenseNet, SMALL_DENSENET),
}


def make_ours(name, axis_name=None):
    module, _, settings = PAIRS[name]
    return module(**settings, axis_name=axis_name)


def make_twin(name, channels=3, classes=15):
    _, network, settings = PAIRS[name]
    return network(**settings, channels=channels, classes=classes)


def give_statistics(network, size, channels, seed=0, head_scale=3.0):
    """Give BatchNorm random scales and shifts, and the statistics of random images.

    A deep network of random weights overflows if the statistics do not fit its activations.
    """
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for _, norm in norms(network):
            norm.weight.add_(0.2 * torch.randn(norm.weight.shape, generator=generator))
            norm.bias.add_(0.2 * torch.randn(norm.bias.shape, generator=generator))
        network.head.weight.mul_(head_scale)
    return _take_statistics(network, size, channels, generator)


def keep_off_kinks(network, size, channels, seed=0):
    """Set scales and shifts that keep every ReLU's input several deviations away from zero.

    A ReLU's gradient jumps at zero, so rounding decides it for inputs near zero in any framework.
    Here a whole channel is on or off, and float32 gradients can be compared.
    """
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, norm in norms(network):
            noise = torch.randn(norm.weight.shape, generator=generator)
            norm.weight.copy_(0.2 * (1 + 0.2 * noise))
            off = torch.rand(norm.bias.shape, generator=generator) < 0.25
            if name.endswith(("bn3", "downsample.1")):
                off[:] = False  # their sum meets the ReLU
            norm.bias.copy_(torch.where(off, -1.5, 1.5))
    return _take_statistics(network, size, channels, generator)


def norms(network):
    return [
        (name, module)
        for name, module in network.named_modules()
        if isinstance(module, torch.nn.BatchNorm2d)
    ]


def _take_statistics(network, size, channels, generator):
    with torch.no_grad():
        for _, norm in norms(network):
            norm.momentum = 1.0
        network.train()
        network.stages(torch.randn(4, channels, size, size, generator=generator))
        for _, norm in norms(network):
            norm.momentum = 0.1
    return network.eval()


def tensor_file(network):
    state = {key: tensor.detach().numpy() for key, tensor in network.state_dict().items()}
    return TensorFile("twin", state, (), {}, "")


def branch_variables(network, backbone):
    """Convert one of the twin's networks to one branch's `(params, batch_stats)`."""
    converted = convert_branch(tensor_file(network.float()), backbone, "backbone")
    return converted.params, converted.batch_stats


def agcnn_variables(network, backbone):
    """Convert the twin's AG-CNN to the variables of all branches."""
    params, batch_stats = {}, {}
    for branch in ("global", "local"):
        params[branch], batch_stats[branch] = branch_variables(network[branch], backbone)
    head = network["fusion"].head
    params["fusion"] = convert_fusion(
        tensor_file(network["fusion"]), head.in_features // 2, head.out_features
    )
    return {"params": params, "batch_stats": {**batch_stats, "fusion": {}}}


def named_tensors(variables, branch, model):
    """Return one branch's tensors under the twin's names, in its layout, in their own dtype."""
    params = variables["params"][branch]
    if branch == "fusion":
        return head_state(params["head"], "fc")
    stats = variables["batch_stats"][branch]
    return torch_state(params, stats, model.backbone, len(model.mean))


def relative(ours, reference):
    """Return the largest difference divided by the reference's largest value."""
    ours, reference = np.asarray(ours, np.float64), np.asarray(reference, np.float64)
    assert ours.shape == reference.shape
    return np.abs(ours - reference).max() / max(np.abs(reference).max(), 1e-30)


def nchw(array):
    return np.asarray(array).transpose(0, 3, 1, 2)


def as_float64(tree):
    return jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), tree)


__all__ = [
    "PAIRS",
    "agcnn_variables",
    "as_float64",
    "branch_variables",
    "give_statistics",
    "make_ours",
    "make_twin",
    "named_tensors",
    "nchw",
    "relative",
    "state_of",
]
