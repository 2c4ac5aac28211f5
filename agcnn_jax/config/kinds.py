"""Kinds and limits of values in configs and JSON files, and conditions for reading a key."""

from __future__ import annotations

import dataclasses
import math
import os
from collections.abc import Callable, Mapping
from numbers import Integral, Real
from typing import Any

from agcnn_jax.runtime.errors import UserError
from agcnn_jax.runtime.paths import expand


@dataclasses.dataclass(frozen=True)
class Kind:
    """A kind of value."""

    words: str
    # To the one form that programs read; `TypeError` for a value of another kind.
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


def _each(convert: Callable[[Any], Any]) -> Callable[[Any], tuple[Any, ...]]:
    """Convert the entries of a list, and nothing else, to a tuple."""
    return lambda value: tuple(map(convert, _one(list, list)(value)))


WHOLE = Kind("a whole number", _one(int, Integral))
NUMBER = Kind("a number", _one(float, Real))
TRUTH = Kind("True or False", _one(bool, bool))
TEXT = Kind("a string", _one(str, (str, os.PathLike)))
PATH = Kind("a string", lambda value: expand(TEXT.convert(value)))
WHOLES = Kind("whole numbers", _several(WHOLE.convert))
NUMBERS = Kind("numbers", _several(NUMBER.convert))
LIST_OF_TEXTS = Kind("a list of strings", _each(TEXT.convert))
LIST_OF_NUMBERS = Kind("a list of numbers", _each(NUMBER.convert))
OBJECT = Kind("an object", _one(dict, dict))


def or_none(kind: Kind) -> Kind:
    """Accept None too, whatever the limits."""
    return Kind(kind.words, lambda value: None if value is None else kind.convert(value))


@dataclasses.dataclass(frozen=True)
class Limits:
    """The values of its kind that a key may have."""

    words: str  # the end of "it must be a number, ..."
    holds: Callable[[Any], bool]
    choices: tuple[str, ...] = ()  # all values, if they can be listed


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
FINITE = Limits("finite", math.isfinite)
POSITIVE = Limits("above 0", lambda value: 0 < value < math.inf)
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
    """A condition on the value of another key, without which a key is not read."""

    key: str
    holds: Callable[[Any], bool]
    remedy: str  # what to set the other key to, as on the command line


def only_if(key: str, *values: str) -> Need:
    """Require one of these values of another key."""
    return Need(key, lambda value: value in values, f"set --config.{key}={'|'.join(values)}")


def unless(key: str, value: Any) -> Need:
    """Require any value but this of another key."""
    return Need(key, lambda given: given != value, f"set another --config.{key}")


def check_entries(
    record: Any, entries: Mapping[str, tuple[Kind, Limits]], where: str, remedy: str
) -> dict[str, Any]:
    """Return these entries of an object from a JSON file in the form that programs read.

    Args:
        record: the object; it may have other entries too.
        entries: by name.
        where: the file and the object's place in it, for messages.
        remedy: what to do, for messages.

    Raises:
        UserError: if one is missing or has another value.
    """
    if not isinstance(record, Mapping):
        raise UserError(f"{where} is {_shown(record)}; it must be an object; {remedy}")
    values = {}
    for name, (kind, limits) in entries.items():
        if name not in record:
            raise UserError(f"{where} has no {name}; {remedy}")
        try:
            value = values[name] = kind.convert(record[name])
            possible = value is None or limits.holds(value)
        except (TypeError, OverflowError):
            possible = False
        if not possible:
            words = in_words(kind, limits)
            raise UserError(
                f"{where}: {name} is {_shown(record[name])}; it must be {words}; {remedy}"
            )
    return values


def in_words(kind: Kind, limits: Limits) -> str:
    """Say what values a kind and its limits allow."""
    return f"{kind.words}, {limits.words}".rstrip(", ")


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:60]}..."
