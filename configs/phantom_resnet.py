"""The config of agcnn_jax/configs/phantom_resnet.py, which says what it needs."""

from agcnn_jax.configs.phantom_resnet import get_config
