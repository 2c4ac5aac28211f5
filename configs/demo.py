"""AG-CNN on synthetic radiographs with a small backbone: minutes on a CPU."""

import ml_collections

from configs import common


def get_config() -> ml_collections.ConfigDict:
    config = common.get_config()
    config.backbone = "resnet_small"
    config.mean = (0.5,)  # one channel: there are no pretrained weights that expect three
    config.std = (0.25,)
    config.data.dir = "data/phantoms"
    config.data.protocol = "official"
    config.input_size = 112
    config.augment.scale = (0.7, 1.0)
    # There is time for few steps: small batches, a large learning rate, and average pooling, which
    # from random weights learns in half the steps that max pooling takes.
    config.pooling = "avg"
    config.batch_size = config.reference_batch_size = (8, 8, 32)
    config.epochs = (10, 9, 3)
    config.learning_rate = (0.15, 0.15, 0.5)
    # Heat maps of 4x4 positions are coarse; a region above 0.7 would often miss the finding.
    config.attention.tau = 0.4
    config.drop_after = 0.7
    config.log_every = 100
    return config
