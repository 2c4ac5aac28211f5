"""AG-CNN with DenseNet-121, as in Table I of the paper."""

import ml_collections

from configs import common


def get_config() -> ml_collections.ConfigDict:
    config = common.get_config()
    config.backbone = "densenet121"
    config.init = "weights/densenet121_imagenet"
    config.batch_size = config.reference_batch_size = (64, 32, 32)
    return config
