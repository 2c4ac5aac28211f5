"""AG-CNN with DenseNet-121, as in Table I of the paper.

Command:
    python data_prep/chestxray14.py --raw_dir RAW --data_dir data/chestxray14
    python data_prep/torch_weights.py --weights timm/densenet121.tv_in1k \
        --backbone densenet121 --out weights/densenet121_imagenet
    python train.py --config configs/densenet.py
    python eval.py --config configs/densenet.py

Needs: ChestX-ray14 as NIH distributes it (RAW), ImageNet weights from the Hugging Face hub, and a
    GPU or TPU. XLA plans 4.6 GiB on a TPU v5e chip for the largest step, in the global stage;
    docs/pods.md lists other batches, and explains training on several devices.
Takes: not measured.
Reached: no result is recorded yet. The paper reports a mean AUC of 0.840 (global), 0.810 (local)
    and 0.871 (fusion).
"""

import ml_collections

from agcnn_jax.configs import common


def get_config() -> ml_collections.ConfigDict:
    config = common.get_config()
    config.backbone = "densenet121"
    config.init = "weights/densenet121_imagenet"
    config.batch_size = config.reference_batch_size = (64, 32, 32)
    return config
