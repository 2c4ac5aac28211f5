"""Effects of a config's keys on the model and on JAX."""

import re

import jax
import jax.numpy as jnp
import pytest
from etils import epath

from agcnn_jax.run.run import open_run
from tests.configs import demo


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
