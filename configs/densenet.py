"""The config of agcnn_jax/configs/densenet.py, which says what it needs."""

from agcnn_jax.configs.densenet import get_config
