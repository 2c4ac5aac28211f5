r"""Prepare a TFDS dataset of grayscale images from films in any folder and a table of labels.

    agcnn-prepare from_csv --images FILMS --labels labels.csv --collection NAME \
        --data_dir DATA [--image_size 256] [--dry_run]

Writes `DATA/films/1.0.0/` (ArrayRecord, one split named `images`) and `DATA/prepare_report.json`.
After an interruption, the same command continues. The page "Your own films" explains tables
and options.
"""

from __future__ import annotations

import argparse
import csv
import difflib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn

from agcnn_jax.data.tables.options import BLANK_AS, UNCERTAIN_AS, VIEWS, TableOptions
from agcnn_jax.data.tables.roles import ROLES
from agcnn_jax.data_prep.prepare.options import check_options
from agcnn_jax.runtime import errors
from agcnn_jax.runtime.errors import OneLineParser, UserError
from agcnn_jax.runtime.machine import available_cores


def parse_arguments(arguments: list[str] | None = None) -> Any:
    """Parse the command line; raises `UserError` for invalid options."""
    parser = OneLineParser(about=__doc__)
    add = parser.add_argument
    listed: dict[str, Any] = {"type": _words, "action": "extend"}
    add("--images", type=Path, required=True, help="folder with the films, in folders or not")
    add("--labels", type=Path, required=True, help="CSV table of the films' labels")
    add("--collection", required=True, help="name of the set, such as 'St Mary 2024'")
    add("--data_dir", type=Path, required=True, help="folder to write the dataset to")
    add("--image_size", type=int, default=256, help="side of the stored images, pixels (256)")
    add("--workers", type=int, default=available_cores(), help="processes (all cores)")
    add("--max_bad", type=float, default=0.01, help="accepted share of unusable rows (0.01)")
    add("--dry_run", action="store_true", help="read the table, match the films, write nothing")
    add("--findings", default=[], metavar="A,B", **listed, help="only these findings")
    add("--positive", default=[], metavar="WORDS", **listed, help="cells that mean 1, as yes,sure")
    add("--negative", default=[], metavar="WORDS", **listed, help="cells that mean 0")
    add(
        *("--uncertain",),
        default=[],
        metavar="POLICIES",
        **listed,
        help="ignore (default), zeros or ones; of one finding Mass=ones; or words that mean -1",
    )
    add("--blank", default="missing", choices=BLANK_AS, help="what a blank cell means (missing)")
    add("--views", default="frontal", choices=VIEWS, help="films to keep (frontal)")
    add("--separator", help="between the findings of a cell; found if not given")
    add("--one_patient_per_film", action="store_true", help="there is no column of patients")
    for role in ROLES:
        add(f"--{role}_column", metavar="HEADER", help=f"column of {role}, '' for none")
    options = parser.parse_args(arguments)
    check_options(options, "image_size", "workers")
    options.collection = " ".join(options.collection.split())
    if not options.collection:
        raise UserError("--collection: is empty; give the set of films a name")
    return options


def _words(text: str) -> list[str]:
    """Divide a text at commas that are in no quotes; `--findings 'Mass,"Effusion, left"'`."""
    words = [word.strip() for word in next(csv.reader([text], skipinitialspace=True)) if word]
    if not words:
        raise argparse.ArgumentTypeError("is empty; leave it out, or name something")
    return words


def table_options(options: Any) -> TableOptions:
    """Return what the command line says about the table.

    Raises:
        UserError: a policy for uncertain labels that there is not, or a word with two meanings.
    """
    words, policies = _uncertain(options.uncertain)
    meaning: dict[str, str] = {}
    said = {"positive": options.positive, "negative": options.negative, "uncertain": words}
    for option, listed in said.items():
        for word in listed:
            other = meaning.setdefault(word.strip().casefold(), option)
            if other != option:
                raise UserError(f"--{other} and --{option} both name {word!r}; name it once")
    headers = {role: getattr(options, f"{role}_column") for role in ROLES}
    return TableOptions(
        columns={role: header for role, header in headers.items() if header is not None},
        findings=tuple(options.findings),
        positive=tuple(options.positive),
        negative=tuple(options.negative),
        uncertain=words,
        uncertain_as=policies,
        blank=options.blank,
        separator=options.separator,
        one_patient_per_film=options.one_patient_per_film,
        views=options.views,
    )


def _uncertain(given: Sequence[str]) -> tuple[tuple[str, ...], dict[str, str]]:
    """Divide `--uncertain` into words of cells, and findings (or "") with their policy."""
    words = []
    policies = {}
    for entry in given:
        finding, _, policy = (part.strip() for part in entry.rpartition("="))
        policy = policy.lower()
        if policy in UNCERTAIN_AS:
            policies[finding] = policy
        elif finding or difflib.get_close_matches(policy, UNCERTAIN_AS, 1, 0.8):
            raise UserError(
                f"--uncertain {entry}: there is no policy {policy!r}; did you mean "
                f"{', '.join(UNCERTAIN_AS[:-1])} or {UNCERTAIN_AS[-1]}?"
            )
        else:
            words.append(entry)
    return tuple(words), policies


def main(arguments: list[str] | None = None) -> int:
    """Run the command; return the exit status."""
    options = parse_arguments(arguments)
    about_table = table_options(options)
    # Imported here, since TFDS takes a second.
    from agcnn_jax.data_prep.films.dataset import prepare

    prepare(options, about_table)
    return 0


def run() -> NoReturn:
    """Run the command as a program."""
    errors.run(main)
