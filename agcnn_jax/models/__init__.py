"""The backbones and the three branches of AG-CNN."""

POOLINGS = ("max", "avg")
"""How the last feature map is pooled; see `agcnn_jax.models.layers.global_pool`."""
