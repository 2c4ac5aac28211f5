"""The keys of a config in one table: kind, range, who may change a key, when it is read.

`configs/common.py` gives every key its default and says what it means.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable
from numbers import Integral, Real
from typing import Any


@dataclasses.dataclass(frozen=True)
class Kind:
    """A kind of value.

    Attributes:
        words: its name in messages.
        convert: returns a value in the one form that programs read; `TypeError` if the value is of
            another kind.
    """

    words: str
    convert: Callable[[Any], Any]


def _one(target: type, accepted: Any) -> Callable[[Any], Any]:
    def convert(value: Any) -> Any:
        # Python counts True as a whole number.
        if not isinstance(value, accepted) or (isinstance(value, bool) and target is not bool):
            raise TypeError
        return target(value)

    return convert


def _several(convert: Callable[[Any], Any]) -> Callable[[Any], tuple[Any, ...]]:
    """Convert several values to a tuple, and a single value to a tuple of one."""
    return lambda value: tuple(
        convert(entry) for entry in (value if isinstance(value, tuple | list) else (value,))
    )


WHOLE = Kind("a whole number", _one(int, Integral))
NUMBER = Kind("a number", _one(float, Real))
TRUTH = Kind("True or False", _one(bool, bool))
TEXT = Kind("a string", _one(str, (str, os.PathLike)))
WHOLES = Kind("whole numbers", _several(WHOLE.convert))
NUMBERS = Kind("numbers", _several(NUMBER.convert))


@dataclasses.dataclass(frozen=True)
class Limits:
    """The values of its kind that a key may have.

    Attributes:
        words: the end of "it must be a number, ...".
        holds: tells whether a converted value is within the limits.
        choices: all values, if they can be listed.
    """

    words: str
    holds: Callable[[Any], bool]
    choices: tuple[str, ...] = ()


MOST = 2**31 - 1
"""The largest int32."""


def at_least(low: float) -> Limits:
    """Limit numbers from below."""
    return Limits(f"at least {low}", lambda value: value >= low)


def count_from(low: int) -> Limits:
    """Limit whole numbers to int32, in which steps are counted."""
    return between(low, MOST)


def between(low: float, high: float) -> Limits:
    """Limit numbers to a closed interval."""
    return Limits(f"at least {low} and at most {high}", lambda value: low <= value <= high)


def one_of(*choices: str) -> Limits:
    """Limit strings to a list."""
    return Limits(f"one of {', '.join(choices)}", lambda value: value in choices, choices)


ANY = Limits("", lambda value: True)
FILLED = Limits("not empty", bool)
FRACTION = Limits("at least 0 and below 1", lambda value: 0 <= value < 1)
SHARE = Limits("above 0 and at most 1", lambda value: 0 < value <= 1)
RANGE = Limits("two positive ones, the smaller first", lambda x: len(x) == 2 and 0 < x[0] <= x[1])
SHARES = Limits("two in 0..1, the smaller first", lambda x: len(x) == 2 and 0 < x[0] <= x[1] <= 1)
CHANNELS = Limits("one for each channel", lambda x: len(x) > 0)
SPREADS = Limits("one for each channel, above 0", lambda x: len(x) > 0 and min(x) > 0)
BRANCHWISE = "one for all branches, or three for global, local, fusion, "
COUNTS = Limits(
    f"{BRANCHWISE}at least 1 and at most {MOST}",
    lambda x: len(x) in (1, 3) and min(x) >= 1 and max(x) <= MOST,
)
RATES = Limits(BRANCHWISE + "above 0", lambda x: len(x) in (1, 3) and min(x) > 0)


@dataclasses.dataclass(frozen=True)
class Need:
    """A condition on another key, without which a key is not read.

    Attributes:
        key: the other key.
        holds: tells whether its value meets the condition.
        remedy: what to set the other key to, as on the command line.
    """

    key: str
    holds: Callable[[Any], bool]
    remedy: str


def only_if(key: str, *values: str) -> Need:
    """Require one of these values of another key."""
    return Need(key, lambda value: value in values, f"set --config.{key}={'|'.join(values)}")


def unless(key: str, value: Any) -> Need:
    """Require any value but this of another key."""
    return Need(key, lambda given: given != value, f"set another --config.{key}")


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
    """A row of the table.

    Attributes:
        kind: of the value.
        limits: of the value.
        changes: when the value may differ from what the workdir was made with.
        needs: all conditions under which the key is read.
    """

    kind: Kind
    limits: Limits = ANY
    changes: str = FIXED
    needs: tuple[Need, ...] = ()

    @property
    def words(self) -> str:
        """Say what the value must be."""
        if self.limits.choices:
            return f"use {self.limits.words}"
        return f"it must be {self.kind.words}{', ' * bool(self.limits.words)}{self.limits.words}"


# The labels of regions are int32, which suffices for 1289 x 1289 pixels.
LARGEST_INPUT = 1289

_CROP = only_if("local_input", "crop")
_DRAWN_SPLIT = unless("data.protocol", "lists")
_DROPS = unless("drop_after", 1.0)
_LIST_FILES = only_if("data.protocol", "lists")
_GIVEN_WEIGHTS = unless("init", "random")
_LISTED = only_if("data.protocol", "official", "lists")
_RESIZED = only_if("augment.crop", "random_resized")
_SCALED = only_if("learning_rate_scaling", "linear", "sqrt")
# A stage that trains the global branch crops on the device; GLF has no other stage.
_STAGED = unless("strategy", "GLF")

# fmt: off
KEYS: dict[str, Key] = {
    # key                       kind   limits, changes, needs
    "seed":                   Key(WHOLE, count_from(0)),
    "workdir":                Key(TEXT, changes=FREE),
    "backbone":               Key(TEXT, one_of("resnet50", "densenet121", "resnet_small")),
    "pooling":                Key(TEXT, one_of("max", "avg")),
    "dtype":                  Key(TEXT, one_of("float32", "bfloat16", "float64")),
    "matmul_precision":       Key(TEXT, one_of("default", "high", "highest")),
    "batch_norm":             Key(TEXT, one_of("global", "device")),
    "init":                   Key(TEXT, FILLED),
    "init_normalisation":     Key(TEXT, one_of("config", "own"), needs=(_GIVEN_WEIGHTS,)),
    "mean":                   Key(NUMBERS, CHANNELS),
    "std":                    Key(NUMBERS, SPREADS),
    "strategy":               Key(TEXT, one_of("G_L_F", "G_LF", "GL_F", "GLF", "G_L_F*")),
    "local_input":            Key(TEXT, one_of("crop", "image")),
    "data.dir":               Key(TEXT, FILLED, FREE),
    "data.protocol":          Key(TEXT, one_of("random", "patient", "official", "lists"), SCORED),
    "data.lists":             Key(TEXT, ANY, SCORED, (_LIST_FILES,)),
    "data.split_seed":        Key(WHOLE, count_from(0), SCORED, (_DRAWN_SPLIT,)),
    "data.allow_unlisted":    Key(TRUTH, ANY, FREE, (_LISTED,)),
    "input_size":             Key(WHOLE, between(32, LARGEST_INPUT)),
    "augment.crop":           Key(TEXT, one_of("random_resized", "random", "centre")),
    "augment.scale":          Key(NUMBERS, SHARES, needs=(_RESIZED,)),
    "augment.ratio":          Key(NUMBERS, RANGE, needs=(_RESIZED,)),
    "augment.flip":           Key(TRUTH),
    "attention.statistic":    Key(TEXT, one_of("max", "l1", "l2"), needs=(_CROP,)),
    "attention.tau":          Key(NUMBER, FRACTION, needs=(_CROP,)),
    "attention.cropper":      Key(TEXT, one_of("host", "device"), needs=(_CROP, _STAGED)),
    "batch_size":             Key(WHOLES, COUNTS),
    "epochs":                 Key(WHOLES, COUNTS),
    "learning_rate":          Key(NUMBERS, RATES),
    "drop_after":             Key(NUMBER, SHARE),
    "drop_factor":            Key(NUMBER, at_least(1), needs=(_DROPS,)),
    "warmup_epochs":          Key(NUMBER, between(0, MOST)),
    "learning_rate_scaling":  Key(TEXT, one_of("none", "linear", "sqrt")),
    "reference_batch_size":   Key(WHOLES, COUNTS, needs=(_SCALED,)),
    "accumulate":             Key(WHOLE, count_from(1)),
    "momentum":               Key(NUMBER, FRACTION),
    "weight_decay":           Key(NUMBER, at_least(0)),
    "max_steps":              Key(WHOLE, count_from(0)),
    "eval_batch_size":        Key(WHOLE, count_from(1), FREE),
    "log_every":              Key(WHOLE, count_from(1), TRAINED),
    "checkpoint_every":       Key(WHOLE, count_from(1), TRAINED),
    "profile":                Key(WHOLE, count_from(0), TRAINED),
    "peer_timeout":           Key(WHOLE, count_from(1), FREE),
}
# fmt: on
"""All keys of a config."""

SECTIONS = frozenset(key.split(".")[0] for key in KEYS if "." in key)
