"""Networks with random weights, and their state dicts."""

import numpy as np
import pytest


def randomise(network, seed=0):
    """Make all statistics and biases non-trivial, as in a trained network."""
    import torch

    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, buffer in network.named_buffers():
            if name.endswith("running_mean"):
                buffer.normal_(0, 0.3, generator=generator)
            if name.endswith("running_var"):
                buffer.uniform_(0.5, 2, generator=generator)
        for parameter in network.parameters():
            noise = torch.empty_like(parameter).normal_(0, 1, generator=generator)
            if parameter.ndim == 1:
                parameter += 0.2 * noise
            else:
                parameter.copy_(noise * (1.5 / parameter[0].numel()) ** 0.5)
    return network.eval()


@pytest.fixture(scope="session")
def networks():
    """Return `make(name, channels, classes)` for PyTorch networks with torchvision's names."""
    pytest.importorskip("torch")
    from agcnn_jax.models.registry import make_backbone
    from tests.parity import twin

    small = make_backbone("resnet_small")
    makers = {
        "resnet50": twin.ResNet,
        "densenet121": twin.DenseNet,
        "resnet_small": lambda **kw: twin.ResNet(small.blocks, small.width, **kw),
    }
    made = {}

    def make(name, channels=3, classes=14, seed=0):
        key = (name, channels, classes, seed)
        if key not in made:
            made[key] = randomise(makers[name](channels=channels, classes=classes), seed)
        return made[key]

    return make


@pytest.fixture(scope="session")
def small_state():
    """Return a small ResNet's state dict as numpy arrays, made without torch."""
    import jax

    from agcnn_jax.interop.export import state_of
    from agcnn_jax.models.agcnn import AGCNN
    from agcnn_jax.models.registry import make_backbone
    from tests.support.small_steps import random_variables

    model = AGCNN(make_backbone("resnet_small"), 14)
    variables = random_variables(model, 32)
    rng = np.random.default_rng(0)
    variables = jax.tree.map(
        lambda leaf: np.asarray(leaf) + 0.1 * rng.random(leaf.shape, np.float32), variables
    )
    return state_of(variables, "global", "resnet_small", 3)


@pytest.fixture
def file(tmp_path, small_state):
    """The small ResNet's state dict as a safetensors file."""
    from safetensors.numpy import save_file

    path = tmp_path / "small.safetensors"
    save_file(small_state, path)
    return path
