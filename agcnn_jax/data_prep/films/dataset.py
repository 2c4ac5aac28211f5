"""The data set of films from any folder."""

from __future__ import annotations

from typing import Any

from agcnn_jax.data.tables.label_table import read_label_table
from agcnn_jax.data.tables.options import TableOptions
from agcnn_jax.data_prep.films.match import check_match, list_films, match_films
from agcnn_jax.data_prep.films.plans import make_plan
from agcnn_jax.data_prep.films.report import (
    check_bad,
    make_report,
    match_line,
    summary,
    table_lines,
)
from agcnn_jax.data_prep.prepare.publish import Outcome
from agcnn_jax.data_prep.prepare.store import REPORT, StoreBuilder, write_report, write_store


class Films(StoreBuilder, skip_registration=True):  # type: ignore[call-arg]
    """The dataset `films`."""


def prepare(options: Any, about_table: TableOptions) -> None:
    """Read the table, match the films and write the dataset, and print what was done.

    Args:
        options: of the command line, see `from_csv.parse_arguments`.
        about_table: what they say about the table.

    Raises:
        UserError: the table cannot be read, it does not fit the films, the folder holds another
            dataset, too many rows are unusable, or the disk is full.
    """
    images, data_dir, max_bad = options.images, options.data_dir, options.max_bad
    table = read_label_table(options.labels, about_table)
    for line in table_lines(table):
        print(line)
    films = list_films(images, data_dir)
    match = match_films(table, films)
    print(match_line(match, table, images), flush=True)
    check_match(match, table, films, images, max_bad)
    plan = make_plan(
        *(images, data_dir, table, about_table, match, films),
        collection=options.collection,
        image_size=options.image_size,
    )

    def review(outcome: Outcome) -> str:
        report = make_report(plan, table, match, outcome, len(films))
        write_report(data_dir / REPORT, report)
        check_bad(report, max_bad, data_dir / REPORT)
        return summary(report)

    if options.dry_run:
        print("nothing was written (--dry_run)", flush=True)
    else:
        print(write_store(plan, data_dir, Films, review, options.workers), flush=True)
