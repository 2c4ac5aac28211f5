"""Prepare a data set from NIH's ChestX-ray14: see agcnn_jax/data_prep/chestxray14.py."""

import os
import sys

if __name__ == "__main__":
    # Python puts this file's folder on the path, not the project.
    sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
    from agcnn_jax.commands import start

    start("agcnn_jax.data_prep.chestxray14")
