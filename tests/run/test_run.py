"""Effects of a config's keys on the model and on JAX, and what a run says about its data."""

import re
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from etils import epath

from agcnn_jax.data.labels import MISSING
from agcnn_jax.run.lineage import Overlap
from agcnn_jax.run.run import open_run
from agcnn_jax.training.loop import describe_training
from tests.configs import demo
from tests.support.missing import copy_with_missing, missing_labels


@pytest.fixture
def open_with(data_dir):
    precision = jax.config.values["jax_default_matmul_precision"]

    def open_with(**settings):
        config = demo.get_config()
        config.data.dir = str(data_dir)
        config.update(settings)
        return open_run(config, epath.Path("/nowhere"))

    yield open_with
    jax.config.update("jax_default_matmul_precision", precision)


@pytest.mark.parametrize("precision", ["highest", "high", "default"])
def test_matmul_precision_reaches_every_convolution_and_product(open_with, precision):
    backbone = open_with(matmul_precision=precision).recipe.model.backbone
    image = jax.ShapeDtypeStruct((1, 32, 32, 1), jnp.float32)
    variables = jax.eval_shape(lambda x: backbone.init(jax.random.key(0), x, train=False), image)

    def loss(params, statistics, x):
        variables = {"params": params, "batch_stats": statistics}
        return backbone.apply(variables, x, train=False).sum()

    text = (
        jax.jit(jax.grad(loss))
        .lower(variables["params"], variables["batch_stats"], image)
        .as_text()
    )
    operations = re.findall(r"stablehlo\.(?:convolution|dot_general)\(?.*", text)
    assert len(operations) > 24  # 9 convolutions in each of two branches, forwards and backwards
    wanted = precision.upper()
    for operation in operations:
        assert f"precision = [{wanted}, {wanted}]" in operation or (
            f"#stablehlo<precision {wanted}>, #stablehlo<precision {wanted}>" in operation
        )


@pytest.mark.parametrize(("choice", "axis"), [("global", "batch"), ("device", None)])
def test_batch_norm_says_whose_statistics(open_with, choice, axis):
    assert open_with(batch_norm=choice).recipe.model.backbone.axis_name == axis


def test_a_run_on_data_with_missing_labels(open_with, tmp_path):
    whole = open_with()
    hidden = whole.split.train[[3, 40]]

    def change(matrix):
        changed = missing_labels(matrix, 0.4)
        changed[:, 0] = matrix[:, 0]  # so that every film has a known label
        changed[hidden] = MISSING
        return changed

    folder = whole.records.directory.parents[1]
    data = {
        "dir": str(copy_with_missing(folder, tmp_path / "data", change)),
        "protocol": "official",
    }
    partly = open_with(data=data)
    assert partly.recipe.missing_labels and not whole.recipe.missing_labels
    np.testing.assert_array_equal(partly.split.train, np.setdiff1d(whole.split.train, hidden))
    assert partly.data_summary["unlabelled_images"] == 2
    assert partly.data_summary["train"] == whole.data_summary["train"] - 2
    assert "unlabelled_images" not in whole.data_summary
    start = SimpleNamespace(tested=Overlap(0, 0, True))
    lines = describe_training(partly, start).splitlines()
    left_out = "films of the training subset that are left out, since none of their labels is known"
    assert f"{left_out}: 2" in lines
    assert left_out not in describe_training(whole, start)
