"""Results of runs as their files hold them."""

import json

from agcnn_jax.config.keys import flatten, read_values
from agcnn_jax.experiments.result import make_result
from tests.configs import demo

BRANCHES = ("global", "local", "fusion")


def content_of(test, validation, seed=0, attention=None, **data):
    """The content of a result's file, as it comes back from JSON."""
    content = {
        "config": {**read_values(flatten(demo.get_config().to_dict())), "seed": seed},
        "data": {"provenance": "ours", "synthetic": False, "protocol": "random", **data},
        "init": None,
        "weights": {"global": "0"},
        "attention": attention or {},
        "test": test,
        "validation": validation,
    }
    return json.loads(json.dumps(content))


def made(*arguments, **options):
    return make_result("seed.json", content_of(*arguments, **options))
