"""The config of an evaluation: the model's own, with the overrides that may change it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import ml_collections
from etils import epath

from agcnn_jax.config.check import check_config, check_overrides
from agcnn_jax.config.keys import FREE, KEYS, SCORED, TRAINED, flatten
from agcnn_jax.config.saved import read_config, same
from agcnn_jax.interop.weights import SETTINGS
from agcnn_jax.runtime.errors import UserError

_ATTENTION = (
    "attention.crop_from",
    "attention.statistic",
    "attention.tau",
    "local_input",
)
_PREDICTION = ("dtype", "input_size", "matmul_precision", *_ATTENTION)


def read_run_config(
    config: ml_collections.ConfigDict, workdir: epath.Path, overrides: dict[str, Any]
) -> ml_collections.ConfigDict:
    """Read the config of a run, with the overrides that an evaluation may change.

    Raises:
        UserError: if nothing was trained there, the run has another backbone, or an override
            contradicts how it was trained.
    """
    saved = read_config(workdir)
    if saved is None:
        raise UserError(
            f"nothing is trained in --workdir {workdir}; train first: python train.py --config ..."
        )
    if saved.backbone != config.backbone:
        raise UserError(
            f"--workdir {workdir} was made with another config: backbone is "
            f"{config.backbone!r}, there {saved.backbone!r}; give the config that it was made with"
        )
    asked, trained = flatten(config.to_dict()), flatten(saved.to_dict())
    for key in overrides:
        changes = KEYS[key].changes
        if changes in (SCORED, FREE):
            with saved.unlocked():
                saved.update_from_flattened_dict({key: asked[key]})
        elif not same(asked[key], trained[key]):
            if changes == TRAINED:
                raise UserError(f"--config.{key} has no effect on an evaluation; leave it out")
            raise UserError(
                f"--workdir {workdir} was made with another config: {key} is {asked[key]!r}, "
                f"there {trained[key]!r}; leave --config.{key} out, or evaluate another run"
            )
    check_overrides(overrides, saved)
    return saved


def weights_config(
    config: ml_collections.ConfigDict,
    about: Mapping[str, Any],
    name: str,
    overrides: Mapping[str, Any],
) -> ml_collections.ConfigDict:
    """Return a config with the network and the normalisation of converted weights.

    Args:
        config: the requested config; says which data to score and how to predict.
        about: see `interop.weights.describe`.
        name: the option that names the weights, for messages.
        overrides: the config's keys that were given on the command line, with their values.

    Raises:
        UserError: if an override contradicts the weights or has no effect on their predictions, or
            the weights' description contradicts itself.
    """
    if not len(about["mean"]) == len(about["std"]) == about["channels"]:
        raise UserError(
            f"{name}: weights.json has {about['channels']} channels, but {len(about['mean'])} "
            f"numbers in mean and {len(about['std'])} in std; convert the weights again with "
            f"data_prep/torch_weights.py"
        )
    of_weights = {
        key: tuple(value) if isinstance(value := about[key], list) else value for key in SETTINGS
    }
    asked = flatten(config.to_dict())
    for key in overrides:
        if key == "workdir":
            raise UserError(f"--config.workdir has no effect with {name}; leave it out")
        if key in SETTINGS and not same(asked[key], of_weights[key]):
            raise UserError(
                f"--config.{key} is {asked[key]!r}, but {name} has {of_weights[key]!r}; leave "
                f"--config.{key} out"
            )
        read = KEYS[key].changes in (SCORED, FREE) or key in (*SETTINGS, *_PREDICTION)
        if not read or (key in _ATTENTION and "local" not in about["branches"]):
            raise UserError(
                f"--config.{key} has no effect on an evaluation of these weights; leave it out"
            )
    new = config.copy_and_resolve_references()
    with new.ignore_type(), new.unlocked():
        new.update_from_flattened_dict(of_weights)
    check_config(new, f"{name}, weights.json")
    check_overrides(overrides, new)
    return new


def read_keys(config: ml_collections.ConfigDict) -> dict[str, Any]:
    """Return the keys that an evaluation of converted weights reads, with their values."""
    return {
        key: value
        for key, value in flatten(config.to_dict()).items()
        if key.split(".")[0] in ("data", "eval") or key in (*SETTINGS, *_PREDICTION)
    }
