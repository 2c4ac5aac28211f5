"""The config of agcnn_jax/configs/phantom_densenet.py, which says what it needs."""

from agcnn_jax.configs.phantom_densenet import get_config
