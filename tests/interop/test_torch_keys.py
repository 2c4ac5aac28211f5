import numpy as np
import pytest

from agcnn_jax.interop.torch_keys import (
    NOT_WEIGHTS,
    backbone_tensors,
    common_prefix,
    from_torch,
    plain_key,
    to_torch,
    torch_shape,
)
from agcnn_jax.models.registry import make_backbone


@pytest.mark.parametrize(
    ("key", "plain"),
    [
        ("layer1.0.conv1.weight", "layer1.0.conv1.weight"),
        ("module.fc.0.bias", "fc.bias"),
        (
            "module.densenet121.features.denseblock1.denselayer2.norm.1.running_var",
            "features.denseblock1.denselayer2.norm1.running_var",
        ),
        (
            "features.denseblock4.denselayer16.conv.2.weight",
            "features.denseblock4.denselayer16.conv2.weight",
        ),
        ("module.densenet121.classifier.0.weight", "classifier.weight"),
        ("features.norm5.weight", "features.norm5.weight"),
        ("layer4.2.bn3.num_batches_tracked", "layer4.2.bn3.num_batches_tracked"),
    ],
)
def test_plain_key(key, plain):
    assert plain_key(key) == plain


@pytest.mark.parametrize(
    ("keys", "prefix"),
    [
        (["a.b.conv1.weight", "a.b.layer1.0.conv1.weight"], "a.b."),
        (["conv1.weight", "fc.bias"], ""),
        (["module.fc.weight", "module.fc.bias"], "module."),
        (["fc.weight", "fc.bias"], ""),
        (["features.conv0.weight", "features.norm0.weight"], ""),
        (["net.features.conv0.weight", "net.classifier.weight"], "net."),
        (["ab.x.weight", "abc.x.weight"], ""),
        ([], ""),
    ],
)
def test_common_prefix(keys, prefix):
    assert common_prefix(keys) == prefix


@pytest.mark.parametrize("name", ["resnet50", "densenet121", "resnet_small"])
@pytest.mark.parametrize("channels", [1, 3])
def test_names_and_shapes_are_torchvisions(networks, name, channels):
    state = networks(name, channels).state_dict()
    head = ("fc.", "classifier.")
    expected = {
        key: tuple(tensor.shape)
        for key, tensor in state.items()
        if not key.endswith(NOT_WEIGHTS) and not key.startswith(head)
    }
    tensors, features = backbone_tensors(make_backbone(name), channels)
    assert {tensor.key: tensor.shape for tensor in tensors} == expected
    assert len({tensor.path for tensor in tensors}) == len(tensors)
    assert features == networks(name, channels).head.in_features


@pytest.mark.parametrize("shape", [(3, 3, 5, 7), (5, 7), (7,)])
def test_layouts_are_inverse(shape):
    array = np.random.default_rng(0).random(shape)
    there = to_torch(array)
    assert there.shape == torch_shape(shape)
    np.testing.assert_array_equal(from_torch(there), array)


def test_kernel_axes():
    ours = np.zeros((3, 3, 5, 7))
    ours[0, 1, 2, 3] = 1
    assert to_torch(ours)[3, 2, 0, 1] == 1
