"""The run of most tests: a small backbone on phantoms, whatever the recipe of `make demo` is."""

import ml_collections

from agcnn_jax.configs import common


def get_config() -> ml_collections.ConfigDict:
    config = common.get_config()
    config.backbone = "resnet_small"
    config.mean = (0.5,)  # one channel: no pretrained weights expect three
    config.std = (0.25,)
    config.data.dir = "data/phantoms"
    config.data.protocol = "official"
    config.input_size = 112
    config.augment.scale = (0.7, 1.0)
    # Few steps fit into minutes: small batches, a large learning rate, and average pooling, which
    # learns from random weights in half the steps of max pooling.
    config.pooling = "avg"
    config.batch_size = config.reference_batch_size = (8, 8, 32)
    config.epochs = (10, 9, 3)
    config.learning_rate = (0.15, 0.15, 0.5)
    # A heat map has only 4x4 positions: the region above 0.7 would often miss the finding.
    config.attention.tau = 0.4
    config.drop_after = 0.7
    config.log_every = 100
    return config
