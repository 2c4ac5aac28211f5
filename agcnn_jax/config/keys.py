"""The keys of a config in one table: default, kind, range, who may change a key, what it means."""

from __future__ import annotations

import dataclasses
import difflib
import math
from collections.abc import Collection, Mapping
from typing import TYPE_CHECKING, Any

from agcnn_jax.attention import LOCAL_INPUTS, STATISTICS
from agcnn_jax.config.kinds import (
    ANY,
    CHANNELS,
    COUNTS,
    FILLED,
    FRACTION,
    MOST,
    NUMBER,
    NUMBERS,
    PATH,
    RANGE,
    RATES,
    SHARE,
    SHARES,
    SPREADS,
    TEXT,
    TRUTH,
    WHOLE,
    WHOLES,
    Kind,
    Limits,
    Need,
    at_least,
    between,
    count_from,
    in_words,
    one_of,
    only_if,
    unless,
)
from agcnn_jax.config.strategies import STRATEGIES
from agcnn_jax.data import CROPS, PROTOCOLS
from agcnn_jax.models import POOLINGS
from agcnn_jax.models.registry import BACKBONES
from agcnn_jax.runtime.errors import UserError

if TYPE_CHECKING:
    import ml_collections

FIXED = "fixed"
"""May not change within a workdir."""

SCORED = "scored"
"""May change for an evaluation, since it chooses the images to score, but not for training."""

TRAINED = "trained"
"""May change whenever train.py goes on, since no result depends on it; eval.py does not read it."""

FREE = "free"
"""May change at any time. Data are compared by their fingerprint, not by where they are."""


@dataclasses.dataclass(frozen=True)
class Key:
    """A row of the table."""

    default: Any
    kind: Kind
    limits: Limits = ANY
    changes: str = FIXED  # when the value may differ from what the workdir was made with
    needs: tuple[Need, ...] = ()  # the conditions under which the key is read
    meaning: str = ""  # for `--help`

    @property
    def words(self) -> str:
        """Say what the value must be."""
        if self.limits.choices:
            return f"use {self.limits.words}"
        return f"it must be {in_words(self.kind, self.limits)}"


SCALINGS = {"none": 0.0, "linear": 1.0, "sqrt": 0.5}
"""`learning_rate_scaling`: the learning rate grows by this power of the ratio between the batch and
the reference batch (`linear`, Goyal et al. 2017; `sqrt`, Krizhevsky 2014)."""

# The labels of regions are int32, which suffices for 1289 x 1289 pixels.
LARGEST_INPUT = 1289

_CROP = only_if("local_input", "crop", "centred")
_DRAWN_SPLIT = unless("data.protocol", "lists")
_DROPS = unless("drop_after", 1.0)
_STEPWISE = only_if("learning_rate_decay", "step")
_LIST_FILES = only_if("data.protocol", "lists")
_GIVEN_WEIGHTS = unless("init", "random")
_LISTED = only_if("data.protocol", "official", "lists")
_RESIZED = only_if("augment.crop", "random_resized")
_SCALED = only_if("learning_rate_scaling", "linear", "sqrt")
# A stage that trains the global branch crops on the device; GLF has no other stage.
_STAGED = unless("strategy", "GLF")

# fmt: off
KEYS: dict[str, Key] = {
    "seed": Key(0, WHOLE, count_from(0), meaning=
        "seeds weights, the order of images and augmentation; the split has data.split_seed"),
    "workdir": Key("", PATH, changes=FREE, meaning=
        "folder or bucket for everything that a run writes; empty: runs/<name of the config "
        "file>"),
    "backbone": Key(
        "resnet50", TEXT, one_of(*BACKBONES), meaning=
        "network of the global and the local branch"),
    "pooling": Key("max", TEXT, one_of(*POOLINGS), meaning=
        "pooling of the last feature map: max is Pool5 of Fig. 2; ImageNet and CheXNet used avg"),
    "dtype": Key("float32", TEXT, one_of("float32", "bfloat16", "float64"), meaning=
        "of the computation; parameters stay float32 at bfloat16; float64 compares runs digit "
        "by digit"),
    "matmul_precision": Key("default", TEXT, one_of("default", "high", "highest"), meaning=
        "of float32 products and convolutions; default: the fastest that the device offers "
        "(TF32 on recent NVIDIA GPUs, passes of bfloat16 on TPUs); highest: float32"),
    "batch_norm": Key("global", TEXT, one_of("global", "device"), meaning=
        "statistics in training; global: of the whole batch; device: of each device's share, as "
        "in PyTorch's DistributedDataParallel"),
    "init": Key("random", PATH, FILLED, meaning=
        "weights of both backbones: random; a folder that data_prep/torch_weights.py wrote; or "
        "a finished stage of another run, such as runs/other/stages/1_global, whose global "
        "backbone both branches get"),
    "init_normalisation": Key(
        "config", TEXT, one_of("config", "own"), needs=(_GIVEN_WEIGHTS,), meaning=
        "config: refuse weights made for another mean or std; own: accept them"),
    "mean": Key((0.485, 0.456, 0.406), NUMBERS, CHANNELS, meaning=
        "of each input channel, for gray levels in 0..1; the default is ImageNet's"),
    "std": Key((0.229, 0.224, 0.225), NUMBERS, SPREADS, meaning=
        "standard deviation of each input channel; the default is ImageNet's"),
    "strategy": Key("G_L_F", TEXT, one_of(*STRATEGIES), meaning=
        "which branches each stage trains (Table II)"),
    "local_input": Key("crop", TEXT, one_of(*LOCAL_INPUTS), meaning=
        "of the local branch: the attended region; the whole image, which with strategy=GLF is "
        "the control experiment of Section IV-C; or, as a control of where it looks, the centre, "
        "as wide and high as the attended region"),
    "data.dir": Key("data/chestxray14", PATH, FILLED, FREE, meaning=
        "folder or bucket that data_prep/chestxray14.py or data_prep/from_csv.py wrote"),
    "data.protocol": Key(
        "random", TEXT, one_of(*PROTOCOLS), SCORED, meaning=
        "the split: random by image, as in the paper; by patient; NIH's official lists; or the "
        "lists in the folder data.lists, without which the data's own split column counts"),
    "data.lists": Key("", PATH, ANY, SCORED, (_LIST_FILES,), meaning=
        "folder of train, validation and test lists"),
    "data.split_seed": Key(0, WHOLE, count_from(0), SCORED, (_DRAWN_SPLIT,), meaning=
        "seeds the split"),
    "data.allow_unlisted": Key(False, TRUTH, ANY, FREE, (_LISTED,), meaning=
        "accept lists that leave out more than 1 % of the images"),
    "input_size": Key(224, WHOLE, between(32, LARGEST_INPUT), meaning=
        "side of the square input in pixels; stored images may be larger"),
    "augment.crop": Key(
        "random_resized", TEXT, one_of(*CROPS), meaning=
        "crop of a training image; random has the size of the centre crop"),
    "augment.scale": Key((0.08, 1.0), NUMBERS, SHARES, needs=(_RESIZED,), meaning=
        "area of a random resized crop, as a fraction of the image's"),
    "augment.ratio": Key((3 / 4, 4 / 3), NUMBERS, RANGE, needs=(_RESIZED,), meaning=
        "its width divided by its height"),
    "augment.flip": Key(True, TRUTH, meaning=
        "mirror a training image with probability 1/2"),
    "attention.statistic": Key("max", TEXT, one_of(*STATISTICS), needs=(_CROP,), meaning=
        "over channels, which makes a heat map of a feature map (Table III)"),
    "attention.tau": Key(0.7, NUMBER, FRACTION, needs=(_CROP,), meaning=
        "threshold of the heat map (Eq. 4)"),
    "attention.cropper": Key(
        "host", TEXT, one_of("host", "device"), needs=(_CROP, _STAGED), meaning=
        "where training crops regions: on the host, one batch ahead, or on the device, in the "
        "step"),
    "attention.crop_from": Key("input", TEXT, one_of("input", "stored"), needs=(_CROP,), meaning=
        "what regions are cut from: the model's input, as in the paper, or the stored image, which "
        "shows more detail if it is larger"),
    "batch_size": Key((128, 64, 64), WHOLES, COUNTS, meaning=
        "images in a step, on all devices together. One number for all branches, or three for "
        "global, local and fusion; a stage that trains several branches takes their smallest "
        "batch, smallest learning rate and most epochs"),
    "epochs": Key((50,), WHOLES, COUNTS, meaning=
        "of each stage, or of the stages of each branch"),
    "learning_rate": Key((0.01,), NUMBERS, RATES, meaning=
        "at the start of a stage, or of the stages of each branch"),
    "learning_rate_decay": Key("step", TEXT, one_of("step", "cosine"), meaning=
        "how the learning rate falls during a stage; step: once, as in the paper; cosine: all the "
        "time, to 0 at the last epoch's end, which suits few epochs"),
    "drop_after": Key(0.4, NUMBER, SHARE, needs=(_STEPWISE,), meaning=
        "fraction of the epochs after which the learning rate drops: 20 of 50"),
    "drop_factor": Key(10.0, NUMBER, at_least(1), needs=(_STEPWISE, _DROPS), meaning=
        "what the learning rate is then divided by"),
    "warmup_epochs": Key(0.0, NUMBER, between(0, MOST), meaning=
        "over which the learning rate rises to its value at the start of a stage"),
    "learning_rate_scaling": Key("none", TEXT, one_of(*SCALINGS), meaning=
        "how the learning rate follows batch_size / reference_batch_size"),
    "reference_batch_size": Key((128, 64, 64), WHOLES, COUNTS, needs=(_SCALED,), meaning=
        "the batch that learning_rate was found with"),
    "accumulate": Key(1, WHOLE, count_from(1), meaning=
        "micro-batches that each step is split into, to save memory; BatchNorm normalises each "
        "micro-batch by itself"),
    "remat": Key(False, TRUTH, changes=TRAINED, meaning=
        "keep only convolutions' outputs for the backward pass and compute the rest again; equal "
        "but for rounding; the page \"Several hosts\" has its memory"),
    "momentum": Key(0.9, NUMBER, FRACTION, meaning=
        "of SGD"),
    "weight_decay": Key(1e-4, NUMBER, at_least(0), meaning=
        "on all parameters"),
    "max_steps": Key(0, WHOLE, count_from(0), meaning=
        "end every stage after this many steps, to try things out; 0 for no limit"),
    "eval.crops": Key("centre", TEXT, one_of("centre", "ten"), FREE, meaning=
        "of each image that eval.py scores; ten: its centre, its corners and their mirror images, "
        "probabilities averaged, as public CheXNet ports do"),
    "eval_batch_size": Key(64, WHOLE, count_from(1), FREE, meaning=
        "images in a batch of validation and evaluation"),
    "log_every": Key(20, WHOLE, count_from(1), TRAINED, meaning=
        "steps between two lines of the log"),
    "checkpoint_every": Key(500, WHOLE, count_from(1), TRAINED, meaning=
        "steps between two checkpoints, beside the one of each epoch"),
    "profile": Key(0, WHOLE, count_from(0), TRAINED, meaning=
        "steps of each stage to trace into <workdir>/profile"),
    "peer_timeout": Key(120, WHOLE, count_from(1), FREE, meaning=
        "seconds of silence after which a process of the run counts as lost"),
}
# fmt: on
"""All keys of a config."""

SECTIONS = frozenset(key.split(".")[0] for key in KEYS if "." in key)


DEFAULTS = {name: key.default for name, key in KEYS.items()}


def default_config() -> ml_collections.ConfigDict:
    """Make a config of the defaults, whose values may be replaced by values of another type."""
    import ml_collections

    # Not type_safe, so that 64 may replace (64,).
    sections = {name: ml_collections.ConfigDict(type_safe=False) for name in sorted(SECTIONS)}
    config = ml_collections.ConfigDict(sections, type_safe=False)
    config.update_from_flattened_dict(DEFAULTS)
    return config


def flatten(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return the leaves of a nested config as `{"data.dir": value}`."""
    leaves: dict[str, Any] = {}
    for name, value in tree.items():
        if isinstance(value, dict) and (value or name in SECTIONS):
            leaves |= flatten(value, f"{prefix}{name}.")
        else:
            leaves[f"{prefix}{name}"] = value
    return leaves


def nest(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return the nested config of `{"data.dir": value}`, with all sections."""
    config: dict[str, Any] = {section: {} for section in sorted(SECTIONS)}
    for key, value in values.items():
        section, _, name = key.rpartition(".")
        (config[section] if section else config)[name] = value
    return config


def is_read(key: str, values: Mapping[str, Any]) -> bool:
    """Tell whether a run reads a key, given the values of all keys."""
    return all(need.holds(values[need.key]) for need in KEYS[key].needs)


def read_values(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return the keys, of a flat config, that a run's results depend on."""
    return {
        key: value
        for key, value in config.items()
        if KEYS[key].changes in (FIXED, SCORED) and is_read(key, config)
    }


def check_value(key: str, value: Any) -> Any:
    """Return a key's value in the form that programs read; `UserError` if it is impossible."""
    row = KEYS[key]
    try:
        converted = row.kind.convert(value)
    except (TypeError, OverflowError):
        raise UserError(f"config.{key} is {value!r}; {row.words}") from None
    numbers = converted if isinstance(converted, tuple) else (converted,)
    if any(isinstance(number, float) and not math.isfinite(number) for number in numbers):
        raise UserError(f"config.{key} is {value!r}; it must be finite")
    if not row.limits.holds(converted):
        raise UserError(f"config.{key} is {value!r}; {row.words}")
    return converted


def check_values(values: Mapping[str, Any], empty: Collection[str] = ()) -> dict[str, Any]:
    """Return a flat config in the form that programs read.

    Args:
        values: of all keys.
        empty: the keys whose values are still to come.

    Raises:
        UserError: for a key that is missing or unknown, or a value that is impossible.
    """
    for key, value in values.items():
        if key not in KEYS:
            raise UserError(unknown_key(key, value))
    for key in KEYS:
        if key not in values:
            raise UserError(f"the config has no {key}; train.py --help lists the keys")
    config = {key: check_value(key, values[key]) for key in KEYS if key not in empty}
    mean, std = (config.get(key, ()) for key in ("mean", "std"))
    if mean and std and len(mean) != len(std):
        raise UserError(
            f"config.mean has {len(mean)} channels and config.std {len(std)}; give both one "
            f"number for each channel"
        )
    return config


def unknown_key(key: str, value: Any = None) -> str:
    """Say that there is no such key, and suggest similar ones."""
    if key in SECTIONS:
        names = ", ".join(name for name in KEYS if name.startswith(f"{key}."))
        given = f" and cannot be {value!r}" if value is not None else ""
        return f"config.{key} is a section{given}; set its keys: {names}"
    last = key.split(".")[-1]
    near = difflib.get_close_matches(key, KEYS, n=3, cutoff=0.7)
    near += [name for name in KEYS if name.split(".")[-1] == last and name not in near]
    hint = f"did you mean {' or '.join(near)}?" if near else "train.py --help lists the keys"
    return f"config.{key} is a key that nothing reads; {hint}"
