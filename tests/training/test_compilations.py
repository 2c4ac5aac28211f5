"""Each stage's step is compiled once: over epochs, validation and the last partial batch."""

import collections
import logging
import re

import jax
import pytest
from etils import epath
from ml_collections import config_flags  # noqa: F401

from agcnn_jax.run import experiment
from agcnn_jax.runtime.devices import device_mesh
from agcnn_jax.training.loop import train
from configs import demo

pytestmark = pytest.mark.usefixtures("quick_compilation")


@pytest.fixture
def compilations():
    """Count compilations by function name while a test runs."""
    names = collections.Counter()

    class Handler(logging.Handler):
        def emit(self, record):
            match = re.match(
                r"Finished XLA compilation of (?:jit\()?([\w<>]+)", record.getMessage()
            )
            if match:
                names[match.group(1)] += 1

    handler = Handler()
    logger = logging.getLogger("jax._src.dispatch")
    level = logger.level
    logger.addHandler(handler)
    logger.setLevel(logging.DEBUG)
    with jax.log_compiles():
        yield names
    logger.removeHandler(handler)
    logger.setLevel(level)


def test_steps_compile_once_per_stage(data_dir, tmp_path, compilations, monkeypatch):
    monkeypatch.setattr(experiment, "device_mesh", lambda: device_mesh(jax.devices()[:1]))
    config = demo.get_config()
    config.data.dir = str(data_dir)
    config.input_size = 56
    config.batch_size = (16,)
    config.epochs = (2,)
    config.eval_batch_size = 8
    config.log_every = 1
    train(config, str(tmp_path / "run"))
    assert (epath.Path(tmp_path) / "run/stages/3_fusion/result.json").exists()
    steps = {
        name: count for name, count in compilations.items() if "step" in name or name == "localise"
    }
    assert steps == {"train_step": 3, "predict_step": 3, "localise": 2}, dict(compilations)
