"""A model with random weights and a tiny network, as an exported folder."""

import json

import jax
import numpy as np

from agcnn_jax.config.keys import DEFAULTS, nest
from agcnn_jax.data.labels import LABELS
from agcnn_jax.inference.export import exported_config
from agcnn_jax.inference.jax_model import JaxModel
from agcnn_jax.inference.model_files import CONFIG, LINEAGE, WEIGHTS, to_safetensors, write_folder
from agcnn_jax.models.agcnn import init_variables
from agcnn_jax.run import lineage
from agcnn_jax.run.recipe import make_recipe


def tiny_model(seed=0):
    """Make a model of three branches for images of 36 pixels; `seed` tells one from another."""
    config = nest(DEFAULTS | {"backbone": "resnet_tiny", "input_size": 32, "init": "random"})
    recipe = make_recipe(config, len(LABELS))
    variables = init_variables(recipe.model, jax.random.key(seed), 32)
    variables = jax.tree.map(np.asarray, variables)
    digest = lineage.digest(variables)
    return JaxModel("tiny", config, LABELS, 36, None, digest, lineage.Lineage(), variables)


def export_tiny(folder, seed=0):
    """Write such a model to a new folder; return the folder."""
    model = tiny_model(seed)
    files = {
        WEIGHTS: to_safetensors(model.variables),
        CONFIG: json.dumps(exported_config(model)).encode(),
        LINEAGE: json.dumps(model.lineage.to_json()).encode(),
    }
    write_folder(folder, files)
    return folder
