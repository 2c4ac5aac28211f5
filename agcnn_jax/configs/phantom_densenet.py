"""AG-CNN with DenseNet-121 at full size on synthetic radiographs.

Command: as in configs/phantom_resnet.py, with densenet121 and
    python data_prep/torch_weights.py --weights timm/densenet121.tv_in1k \
        --backbone densenet121 --out weights/densenet121_imagenet
    python -m agcnn_jax.experiments table1 --config configs/phantom_densenet.py \
        --workdir runs/experiments/phantoms

Needs: about 20,000 phantoms, ImageNet weights from the Hugging Face hub, and a GPU or TPU.
Takes: not measured.
Reached: no result is recorded yet.
"""

import ml_collections

from agcnn_jax.configs import phantom_resnet


def get_config() -> ml_collections.ConfigDict:
    config = phantom_resnet.get_config()
    config.backbone = "densenet121"
    config.init = "weights/densenet121_imagenet"
    config.batch_size = config.reference_batch_size = (64, 32, 32)
    return config
