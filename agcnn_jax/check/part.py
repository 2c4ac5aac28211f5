"""What one part of a check found, its lines in the table, and the file of all parts."""

from __future__ import annotations

import contextlib
import dataclasses
import getpass
import os
import re
import statistics
from collections.abc import Mapping, Sequence
from typing import Any

import agcnn_jax
from agcnn_jax.runtime import cluster, supervisor

SLOW = 3.0
"""A host is slow if it takes this many times as long as the median of the others."""

_SECRET = re.compile("TOKEN|SECRET|PASSW|PASS$|CREDENTIAL|AUTH|KEY(_ID)?$", re.IGNORECASE)
"""In names of environment variables whose values nobody else may see."""

_HOME = re.compile(r"/(?:home|Users)/[^/\s'\",;:)]+|/root(?=[/\s'\",;:)]|$)")

_QUERY = re.compile(r"(://[^\s?'\"]*)\?[^\s'\"]*")
"""What a signed address carries."""


@dataclasses.dataclass(frozen=True)
class Part:
    """A part of the check.

    Attributes:
        name: such as `network`.
        figures: all that was measured, as JSON.
        lines: what the table shows of it.
        failures: what would end or spoil the run, each with its remedy.
    """

    name: str
    figures: dict[str, Any]
    lines: tuple[str, ...] = ()
    failures: tuple[str, ...] = ()


def table(part: Part) -> str:
    """Show a part, its name before the first line, and what failed below."""
    lines = [*part.lines, *(f"FAILED: {failure}" for failure in part.failures)]
    names = [part.name, *[""] * len(lines)]
    return "\n".join(f"{name:9}{line}" for name, line in zip(names, lines, strict=False))


def slow_ones(seconds: Sequence[float], least: float) -> list[int]:
    """Return the places of those that take `SLOW` times the median of the others, or longer.

    What takes less than `least` is never slow.
    """
    return [
        place
        for place, one in enumerate(seconds)
        if (others := [*seconds[:place], *seconds[place + 1 :]])
        and one >= max(least, SLOW * statistics.median(others))
    ]


def in_words(size: float) -> str:
    """Write a number of bytes."""
    return f"{size / 1e9:,.2f} GB" if size >= 1e9 else f"{size / 1e6:,.2f} MB"


def named(process: int, hosts: Sequence[str]) -> str:
    """Name a process and its host."""
    return f"process {process} on {hosts[process]}"


def report(parts: Sequence[Part], config: Mapping[str, Any], hosts: Sequence[str]) -> Any:
    """Make the content of `check.json`, which may be shown to anybody.

    It names no home folder, user, host, coordinator or bucket, and no secret of this process's
    environment or of an address.

    Args:
        parts: of the check.
        config: `{"data.dir": value}`, all keys.
        hosts: the name of each process's host.
    """
    failures = [{"part": p.name, "what": what} for p in parts for what in p.failures]
    content = {
        "agcnn_jax": agcnn_jax.__version__,
        "passed": not failures,
        "failures": failures,
        "config": dict(config),
        **{part.name: part.figures for part in parts},
    }
    return without_private(content, private_texts(hosts))


def private_texts(hosts: Sequence[str]) -> dict[str, str]:
    """Return the texts that a report must not show, and what takes their place."""
    texts = {}
    address = (cluster.coordinator() or "").rpartition(":")[0]
    if address and not address.startswith(supervisor.LOOPBACK):
        texts[address] = "COORDINATOR"
    texts |= {host: f"host{i}" for i, host in enumerate(dict.fromkeys(hosts))}
    with contextlib.suppress(OSError, KeyError):  # the user has no name
        texts[getpass.getuser()] = "USER"
    if (given := os.path.expanduser("~")) not in ("~", "/"):
        for home in (given, os.path.realpath(given)):  # paths in messages have no links
            texts[home] = "~"
    secrets = [v for name, v in os.environ.items() if _SECRET.search(name) and len(v) > 3]
    return texts | dict.fromkeys(secrets, "***")


def without_private(value: Any, texts: Mapping[str, str]) -> Any:
    """Replace whole words in all texts of a JSON value, keys included; and homes and buckets.

    An underscore or a hyphen ends a word, as in a folder `jane_runs`.
    """
    if isinstance(value, Mapping):
        return {without_private(k, texts): without_private(v, texts) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [without_private(one, texts) for one in value]
    if not isinstance(value, str):
        return value
    # The longest first: a host's name may begin with the user's.
    words = "|".join(map(re.escape, sorted(texts, key=len, reverse=True)))
    value = re.sub(rf"(?<![^\W_])(?:{words})(?![^\W_])", lambda found: texts[found[0]], value)
    value = re.sub(r"://[^/\s?]+", "://BUCKET", _QUERY.sub(r"\1", value))
    return _HOME.sub("~", value)
