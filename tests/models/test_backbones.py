import importlib.util

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from agcnn_jax.models import registry
from agcnn_jax.models.densenet import DenseLayer
from agcnn_jax.runtime.errors import UserError

# Parameters of torchvision's models without their classifiers: 25,557,032 - 2,049,000 and
# 7,978,856 - 1,025,000 (torchvision's model pages and 1000 classes).
TORCHVISION_PARAMETERS = {"resnet50": 23_508_032, "densenet121": 6_953_856}


def plain_registry():
    """Import the registry without the smaller network that tests/support/tiny.py puts into it."""
    spec = importlib.util.spec_from_file_location("plain_registry", registry.__file__)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


BACKBONES = plain_registry().BACKBONES
make_backbone = plain_registry().make_backbone


def shapes(name, side=224, channels=3):
    backbone = make_backbone(name)
    x = jnp.zeros((2, side, side, channels))
    return jax.eval_shape(lambda: backbone.init_with_output(jax.random.key(0), x, train=False))


@pytest.mark.parametrize(("name", "count"), TORCHVISION_PARAMETERS.items())
def test_as_many_parameters_as_torchvision(name, count):
    _, variables = shapes(name)
    assert sum(x.size for x in jax.tree.leaves(variables["params"])) == count


@pytest.mark.parametrize(
    ("name", "side", "expected"),
    [
        ("resnet50", 224, (2, 7, 7, 2048)),
        ("resnet50", 225, (2, 8, 8, 2048)),
        ("densenet121", 224, (2, 7, 7, 1024)),
        ("densenet121", 225, (2, 7, 7, 1024)),  # its average pools drop remainders
        ("resnet_small", 112, (2, 4, 4, 512)),
    ],
)
def test_last_feature_map(name, side, expected):
    output, _ = shapes(name, side)
    assert output.shape == expected


def test_stride_sits_in_the_3x3():
    backbone = make_backbone("resnet_small")
    x = jnp.zeros((1, 64, 64, 1))

    def run(key):
        return backbone.init_with_output(key, x, train=False, capture_intermediates=True)

    _, state = jax.eval_shape(run, jax.random.key(0))
    block = state["intermediates"]["layer2_0"]
    assert block["conv1"]["__call__"][0].shape[1] == 16
    assert block["conv2"]["__call__"][0].shape[1] == 8


@pytest.mark.usefixtures("quick_compilation")
def test_bfloat16_computes_in_bfloat16_and_keeps_float32_parameters():
    backbone = make_backbone("resnet_small", dtype=jnp.bfloat16)
    x = jax.random.normal(jax.random.key(1), (4, 64, 64, 1))
    variables = jax.jit(lambda key: backbone.init(key, x, train=False))(jax.random.key(0))
    assert {p.dtype for p in jax.tree.leaves(variables)} == {jnp.dtype("float32")}
    y, updated = jax.eval_shape(
        lambda: backbone.apply(variables, x, train=True, mutable=["batch_stats"])
    )
    assert y.dtype == jnp.bfloat16
    assert {p.dtype for p in jax.tree.leaves(updated)} == {jnp.dtype("float32")}
    reference = make_backbone("resnet_small")
    y, expected = (
        jax.jit(lambda net=net: net.apply(variables, x, train=False))()
        for net in (backbone, reference)
    )
    # Eight bits of mantissa, rounded after each of some 28 successive convolutions and norms.
    difference = np.linalg.norm(y.astype(jnp.float32) - expected)
    assert 1e-4 < difference / np.linalg.norm(expected) < 0.03


def test_unknown_backbone_is_named():
    with pytest.raises(UserError, match=f"vgg16.*{next(iter(BACKBONES))}"):
        make_backbone("vgg16")


@pytest.mark.parametrize(
    ("platform", "rows", "minor_axes"),
    [("tpu", 3, "3, 0, 2, 1"), ("tpu", 128, "0, 3, 2, 1"), ("cpu", 128, None)],
)
def test_tpus_lay_maps_out_along_their_channels_or_a_batch_of_128(platform, rows, minor_axes):
    layer = DenseLayer(growth=4)
    x = jax.ShapeDtypeStruct((rows, 4, 4, 8), jnp.float32)
    variables = jax.eval_shape(lambda x: layer.init(jax.random.key(0), [x], False, None), x)
    step = jax.jit(lambda variables, x: layer.apply(variables, [x], False, None))
    text = step.trace(variables, x).lower(lowering_platforms=(platform,)).as_text()
    constrained = [line for line in text.splitlines() if "@LayoutConstraint" in line]
    assert len(constrained) == (2 if minor_axes else 0)
    assert all(f"result_layouts = [dense<[{minor_axes}]>" in line for line in constrained)
