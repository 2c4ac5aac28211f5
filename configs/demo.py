"""The config of agcnn_jax/configs/demo.py, which says what it needs."""

from agcnn_jax.configs.demo import get_config
