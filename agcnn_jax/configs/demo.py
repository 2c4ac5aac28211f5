"""AG-CNN on synthetic radiographs with a small backbone.

Command:
    make demo

    or, once the data are there,
    python train.py --config configs/demo.py
    python eval.py --config configs/demo.py

Needs: two CPU cores, nothing downloaded.
Takes: 237 s for `make demo` on two cores, installing included.
Reached: mean AUC over the 14 findings on the synthetic test set, with seeds 0, 1 and 2:
    global 0.857, 0.856, 0.850, local 0.828, 0.833, 0.834, fusion 0.873, 0.873, 0.867; fusion minus
    global +0.016, +0.017, +0.017. Rounding differs between processors, and so do these numbers in
    the second digit. Nothing here is about patients.
"""

import ml_collections

from agcnn_jax.configs import common


def get_config() -> ml_collections.ConfigDict:
    config = common.get_config()
    config.backbone = "resnet_tiny"
    config.mean = (0.5,)  # one channel: no pretrained weights expect three
    config.std = (0.25,)
    config.data.dir = "data/phantoms"
    config.data.protocol = "official"
    # Half the pixels of the stored images; the local branch reads its crop from all of them.
    config.input_size = 64
    config.attention.crop_from = "stored"
    config.augment.scale = (0.7, 1.0)
    # No phantom has its heart on the right: mirrored films would be unlike all that are scored.
    config.augment.flip = False
    # Few steps fit into minutes: small batches, a large learning rate, and average pooling, which
    # learns from random weights in half the steps of max pooling.
    config.pooling = "avg"
    config.batch_size = config.reference_batch_size = (8, 8, 32)
    config.epochs = (8, 8, 4)
    config.learning_rate = (0.15, 0.15, 0.5)
    config.learning_rate_decay = "cosine"
    # A heat map has only 4x4 positions: a region above a high threshold often misses the finding.
    config.attention.tau = 0.2
    config.log_every = 100
    return config
