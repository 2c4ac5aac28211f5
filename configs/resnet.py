"""AG-CNN with ResNet-50, as in Table I of the paper."""

import ml_collections

from configs import common


def get_config() -> ml_collections.ConfigDict:
    config = common.get_config()
    config.backbone = "resnet50"
    config.init = "weights/resnet50_imagenet"
    return config
