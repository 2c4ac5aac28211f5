"""AG-CNN with ResNet-50, as in Table I of the paper.

Command:
    python data_prep/chestxray14.py --raw_dir RAW --data_dir data/chestxray14
    python data_prep/torch_weights.py --weights timm/resnet50.tv_in1k \
        --backbone resnet50 --out weights/resnet50_imagenet
    python train.py --config configs/resnet.py
    python eval.py --config configs/resnet.py

Needs: ChestX-ray14 as NIH distributes it (RAW), ImageNet weights from the Hugging Face hub, and a
    GPU or TPU. XLA plans 8.0 GiB on a TPU v5e chip for the largest step, in the global stage;
    docs/pods.md lists other batches, and explains training on several devices.
Takes: not measured.
Reached: no result is recorded yet. The paper reports a mean AUC of 0.841 (global), 0.817 (local)
    and 0.868 (fusion).
"""

import ml_collections

from agcnn_jax.configs import common


def get_config() -> ml_collections.ConfigDict:
    config = common.get_config()
    config.backbone = "resnet50"
    config.init = "weights/resnet50_imagenet"
    return config
