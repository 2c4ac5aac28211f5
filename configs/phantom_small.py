"""The config of agcnn_jax/configs/phantom_small.py, which says what it needs."""

from agcnn_jax.configs.phantom_small import get_config
