"""A config of the pages with a small network and few steps; `NAME` is that of the config file."""

import runpy

import ml_collections

from tests.support.programs import ROOT

NAME = "resnet"


def get_config() -> ml_collections.ConfigDict:
    config = runpy.run_path(str(ROOT / "configs" / f"{NAME}.py"))["get_config"]()
    config.backbone = "resnet_small"
    config.init = "random"
    config.mean, config.std = (0.5,), (0.25,)
    config.pooling = "avg"
    config.input_size = 56
    config.batch_size = config.reference_batch_size = (8, 8, 8)
    config.max_steps = 2
    return config
