"""AG-CNN with ResNet-50 at full size on synthetic radiographs.

Command:
    python data_prep/phantoms.py --out_dir data/phantoms_512_raw --patients 5940 --size 512
    python data_prep/chestxray14.py --raw_dir data/phantoms_512_raw --data_dir data/phantoms_512 \
        --image_size 512
    python data_prep/torch_weights.py --weights timm/resnet50.tv_in1k \
        --backbone resnet50 --out weights/resnet50_imagenet
    python -m agcnn_jax.experiments all --config configs/phantom_resnet.py \
        --workdir runs/experiments/phantoms

Needs: about 20,000 phantoms, ImageNet weights from the Hugging Face hub, and a GPU or TPU.
Takes: not measured.
Reached: no result is recorded yet.
"""

import ml_collections

from agcnn_jax.configs import resnet


def get_config() -> ml_collections.ConfigDict:
    config = resnet.get_config()
    config.data.dir = "data/phantoms_512"
    config.data.protocol = "official"
    config.augment.scale = (0.7, 1.0)
    config.epochs = (12, 12, 4)
    return config
