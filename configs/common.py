"""The config of agcnn_jax/configs/common.py, which has the defaults of all keys."""

from agcnn_jax.configs.common import get_config
