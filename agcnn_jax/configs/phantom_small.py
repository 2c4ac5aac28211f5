"""AG-CNN in miniature on synthetic radiographs, for many trainings on a CPU.

Command:
    python data_prep/phantoms.py --out_dir data/phantoms_256_raw --patients 2400 --size 256
    python data_prep/chestxray14.py --raw_dir data/phantoms_256_raw --data_dir data/phantoms_256
    python -m agcnn_jax.experiments table1 --config configs/phantom_small.py

Needs: two CPU cores, nothing downloaded.
Takes: about 2 minutes for each seed of `table1` on two cores.
Reached: with seeds 0 to 2, mean AUC over the 14 findings on the synthetic test set of global 0.813,
    local 0.745, fusion 0.830; see docs/reproduction.md. Nothing here is about patients.
"""

import ml_collections

from agcnn_jax.configs import common


def get_config() -> ml_collections.ConfigDict:
    config = common.get_config()
    config.backbone = "resnet_tiny"
    config.mean = (0.5,)  # one channel: no pretrained weights expect three
    config.std = (0.25,)
    config.data.dir = "data/phantoms_256"
    config.data.protocol = "official"
    config.input_size = 64  # the heat map has 4x4 positions
    config.augment.scale = (0.7, 1.0)
    # As in configs/demo.py: average pooling learns from random weights sooner than the maximum.
    config.pooling = "avg"
    config.batch_size = config.reference_batch_size = (16, 16, 32)
    config.epochs = (6, 6, 2)
    config.learning_rate = (0.2, 0.2, 0.5)
    # A heat map has only 4x4 positions: the region above 0.7 would often miss the finding.
    config.attention.tau = 0.5
    config.drop_after = 0.7
    config.log_every = 100
    return config
