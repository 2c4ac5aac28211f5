"""The backbones and the three branches of AG-CNN."""

BRANCHES = ("global", "local", "fusion")
"""The branches, in the order in which the paper trains them."""

POOLINGS = ("max", "avg")
"""How the last feature map is pooled; see `agcnn_jax.models.layers.global_pool`."""
