"""A run with random weights, evaluated on phantoms."""

import jax
import numpy as np
import pytest
from etils import epath

from agcnn_jax.config.saved import read_config
from agcnn_jax.evaluation.evaluate import evaluate
from agcnn_jax.evaluation.figures import files as figures
from agcnn_jax.models.agcnn import BRANCHES
from agcnn_jax.run.run import open_run
from tests.configs import demo
from tests.support.runs import make_run
from tests.support.small_steps import random_variables


@pytest.fixture(scope="session")
def workdir(data_dir, tmp_path_factory):
    """A run of which all three stages have finished and `eval/test` is written."""
    workdir = tmp_path_factory.mktemp("inference") / "run"
    config = demo.get_config()
    config.data.dir, config.input_size, config.eval_batch_size = str(data_dir), 56, 16
    experiment = open_run(config, epath.Path(workdir))
    variables = jax.tree.map(np.asarray, random_variables(experiment.recipe.model, 56))
    make_run(experiment, variables, BRANCHES)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(figures, "files", lambda evaluation: {})
        evaluate(read_config(experiment.workdir), str(workdir), {})
    return workdir
