"""The defaults of all keys: settings of the paper's Section IV-B.

A config is a Python file whose `get_config` starts from this one and changes what it needs; see
agcnn_jax/configs/demo.py. The command line overrides any key: --config.seed=1,
--config.data.dir=DATA.

`python train.py --help` lists the keys with their defaults, ranges and meanings, which are in
agcnn_jax/config/keys.py.
"""

import ml_collections

from agcnn_jax.config.keys import default_config


def get_config() -> ml_collections.ConfigDict:
    return default_config()
