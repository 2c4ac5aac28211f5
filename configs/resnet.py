"""The config of agcnn_jax/configs/resnet.py, which says what it needs."""

from agcnn_jax.configs.resnet import get_config
