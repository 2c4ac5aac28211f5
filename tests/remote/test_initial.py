"""Initial weights in an object store."""

import jax
import numpy as np
import pytest
from etils import epath

from agcnn_jax.interop.weights import save_weights
from agcnn_jax.run.checkpoints import StageCheckpoints
from agcnn_jax.run.lineage import NOTHING
from agcnn_jax.run.run import open_run
from agcnn_jax.runtime.errors import UserError
from agcnn_jax.runtime.storage import REACHABLE, absolute
from agcnn_jax.training.start import initial_variables, read_init
from tests.configs import demo
from tests.run.test_checkpoints import Position
from tests.support.small_steps import random_variables


@pytest.fixture(scope="module")
def experiment(data_dir):
    config = demo.get_config()
    config.data.dir = str(data_dir)
    config.input_size = 56
    return open_run(config, epath.Path("/nowhere"))


@pytest.fixture(scope="module")
def variables(experiment):
    """Variables that differ from a run's default initialisation."""
    recipe = experiment.recipe
    return jax.device_get(random_variables(recipe.model, recipe.input_size, seed=7))


def backbones(experiment, init):
    experiment.config.init = init
    found = initial_variables(experiment, read_init(experiment)[0])
    return [found["params"][branch]["backbone"] for branch in ("global", "local")]


@pytest.mark.slow
def test_a_trained_stage(store, experiment, variables):
    stage = "gs://bucket/run/stages/1_global"
    trained = {kind: {"global": tree["global"]} for kind, tree in variables.items()}
    with StageCheckpoints(absolute(stage) / "checkpoints", experiment.identity) as checkpoints:
        checkpoints.save(1, {"variables": trained}, Position(1))
        checkpoints.add_score(1, 0.5, 14)
    for found in backbones(experiment, stage):
        jax.tree.map(np.testing.assert_array_equal, found, trained["params"]["global"]["backbone"])
    store.forbidden.add("bucket")
    with pytest.raises(UserError, match=rf"^{stage}/weights.json cannot be read: .*; {REACHABLE}"):
        backbones(experiment, stage)


def test_converted_weights(store, experiment, variables, tmp_path):
    about = {"backbone": "resnet_small", "channels": 1, "branches": ["global", "local", "fusion"]}
    about |= {"classes": None, "pooling": "avg", "mean": [0.5], "std": [0.25]}
    about["lineage"] = NOTHING.to_json()
    save_weights(tmp_path / "weights", variables, about)
    for path in (tmp_path / "weights").rglob("*"):
        if path.is_file():
            store.put("bucket", str(path.relative_to(tmp_path)), path.read_bytes())
    for branch, found in zip(
        ("global", "local"), backbones(experiment, "gs://bucket/weights"), strict=True
    ):
        jax.tree.map(np.testing.assert_array_equal, found, variables["params"][branch]["backbone"])
    # A file is missing.
    [data, *_] = store.names("bucket", "weights/variables/d/")
    del store.objects["bucket"][data]
    with pytest.raises(UserError, match=r"^gs://bucket/weights/variables cannot be read \(.+\); "):
        backbones(experiment, "gs://bucket/weights")


def test_nothing_there(store, experiment):
    with pytest.raises(UserError, match=r"^config.init is 'gs://bucket/x', which holds no weights"):
        backbones(experiment, "gs://bucket/x")
