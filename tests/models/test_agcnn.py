import jax
import jax.numpy as jnp
import numpy as np
import pytest

from agcnn_jax.models.agcnn import (
    AGCNN,
    BRANCHES,
    apply_branch,
    forward,
    init_variables,
    normalise,
)
from agcnn_jax.models.registry import make_backbone
from agcnn_jax.models.resnet import ResNet

pytestmark = pytest.mark.usefixtures("quick_compilation")

SIZE = 32
LABELS = 5


@pytest.fixture(scope="module")
def model():
    return AGCNN(ResNet(blocks=(1, 1), width=8), LABELS, mean=(0.5,), std=(0.25,))


@pytest.fixture(scope="module")
def variables(model):
    return jax.jit(lambda key: init_variables(model, key, SIZE))(jax.random.key(0))


@pytest.fixture(scope="module")
def images():
    return jax.random.uniform(jax.random.key(1), (3, SIZE, SIZE), maxval=255.0)


@pytest.fixture(scope="module")
def local_images():
    return jax.random.uniform(jax.random.key(2), (3, SIZE, SIZE), maxval=255.0)


def test_normalise_repeats_gray_levels_in_every_channel():
    model = AGCNN(make_backbone("resnet_small"), LABELS)
    x = normalise(model, jnp.full((1, 2, 2), 255.0))
    np.testing.assert_allclose(
        x[0, 0, 0], (1 - np.array([0.485, 0.456, 0.406])) / [0.229, 0.224, 0.225], rtol=1e-6
    )


def test_branches_do_not_share_weights(variables):
    first = jax.tree.leaves(variables["params"]["global"])
    second = jax.tree.leaves(variables["params"]["local"])
    assert any(not np.array_equal(a, b) for a, b in zip(first, second, strict=True))


def test_fusion_is_a_linear_layer_on_both_pooled_features(model, variables, images, local_images):
    logits, _ = forward(model, variables, images, local_images)
    global_output, _ = apply_branch(model, variables, "global", images, train=False)
    local_output, _ = apply_branch(model, variables, "local", local_images, train=False)
    head = variables["params"]["fusion"]["head"]
    pooled = np.concatenate([global_output.pooled, local_output.pooled], axis=1).astype(np.float64)
    np.testing.assert_allclose(
        logits["fusion"], pooled @ np.asarray(head["kernel"]) + head["bias"], rtol=1e-4, atol=1e-4
    )
    np.testing.assert_allclose(global_output.pooled, global_output.feature_map.max(axis=(1, 2)))


@pytest.mark.parametrize("branch", BRANCHES)
def test_a_branch_alone_is_what_it_is_among_all(model, variables, images, local_images, branch):
    alone, _ = forward(model, variables, images, local_images, branches=[branch])
    among_all, _ = forward(model, variables, images, local_images)
    assert list(alone) == [branch]
    np.testing.assert_allclose(alone[branch], among_all[branch], rtol=1e-5)


def test_branches_not_asked_for_are_not_computed(model, variables, images):
    def operations(branches):
        jaxpr = jax.make_jaxpr(
            lambda: forward(model, variables, images, images, branches=branches)[0]
        )()
        return str(jaxpr).count("conv_general_dilated")

    assert operations(["global"]) == operations(["local"]) == operations(BRANCHES) / 2


def test_only_trained_branches_update_their_statistics(model, variables, images, local_images):
    _, updated = forward(model, variables, images, local_images, train=["local"])

    def changed(branch):
        before = jax.tree.leaves(variables["batch_stats"][branch])
        after = jax.tree.leaves(updated["batch_stats"][branch])
        return any(not np.array_equal(a, b) for a, b in zip(before, after, strict=True))

    assert changed("local")
    assert not changed("global")


def test_local_images_may_come_from_the_feature_map(model, variables, images, local_images):
    seen = []

    def make(feature_map):
        seen.append(feature_map.shape)
        return local_images

    made, _ = forward(model, variables, images, make, branches=["local"])
    given, _ = forward(model, variables, images, local_images, branches=["local"])
    assert seen == [(3, 4, 4, 64)]
    np.testing.assert_array_equal(made["local"], given["local"])


def test_missing_local_images_are_an_error(model, variables, images):
    with pytest.raises(ValueError, match="local_images"):
        forward(model, variables, images, None, branches=["fusion"])
