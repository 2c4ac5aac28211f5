"""Reading films, splitting records, batching and augmenting them."""

PROTOCOLS = ("random", "patient", "official", "lists")
"""How images are split; see `agcnn_jax.data.splits`."""

CROPS = ("random_resized", "random", "centre")
"""How training images are cropped; see `agcnn_jax.data.augment`."""
