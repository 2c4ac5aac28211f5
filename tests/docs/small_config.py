"""A config of the pages with a small network and few steps, made of the one at `ORIGINAL`."""

import runpy

import ml_collections

ORIGINAL = "configs/resnet.py"


def get_config() -> ml_collections.ConfigDict:
    config = runpy.run_path(ORIGINAL)["get_config"]()
    config.backbone = "resnet_small"
    config.init = "random"
    config.mean, config.std = (0.5,), (0.25,)
    config.pooling = "avg"
    config.input_size = 56
    config.batch_size = config.reference_batch_size = (8, 8, 8)
    config.max_steps = 2
    return config
