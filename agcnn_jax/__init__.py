"""AG-CNN (Guan et al. 2018) in JAX and Flax: three branches, three stages, one AUC table."""

__version__ = "0.1.0"
