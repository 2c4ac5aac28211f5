"""The one reader of tables of labels, whatever collection they are of."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from agcnn_jax.data.boxes import Box
from agcnn_jax.data.labels import FINDINGS, LABELS, MISSING, NO_FINDING
from agcnn_jax.data.tables.csv_table import CsvTable, read_csv
from agcnn_jax.data.tables.films import (
    Films,
    film_ages,
    film_boxes,
    film_cells,
    film_patients,
    film_splits,
    films_of,
    merge_rows,
    where,
    without_laterals,
)
from agcnn_jax.data.tables.options import UNCERTAIN_AS, TableOptions
from agcnn_jax.data.tables.roles import check_roles, find_roles
from agcnn_jax.data.tables.synonyms import canonical, read_synonyms
from agcnn_jax.data.tables.values import (
    BLANK,
    NEGATIVE,
    POSITIVE,
    UNCERTAIN,
    RowLabels,
    read_values,
)
from agcnn_jax.data.text import plain
from agcnn_jax.runtime.errors import UserError

BESIDE_NO_FINDING = "Support Devices"
"""The finding that a film without findings may have."""

_SEXES = {"male": "M", "m": "M", "female": "F", "f": "F", "unknown": ""}


@dataclasses.dataclass(frozen=True, eq=False)
class LabelTable:
    """The labels of N films, in the order of the file, and what else their table knows.

    Attributes:
        path: of the file.
        labels: names of the C labels: the paper's findings in its order, then others as the table
            has them, then `No Finding`.
        images: as the table writes them `[N]`.
        lines: the first line of each image in the file `[N]`.
        matrix: 0, 1 or `MISSING`, uint8 `[N, C]`.
        patients: see `read_patients`; the image where each film is a patient `[N]`.
        views: as the table writes them, "" where not given `[N]`.
        sexes: M, F, or as the table writes it, "" where not given `[N]`.
        splits: train, validation or test, "" without such a column `[N]`.
        ages: in years, -1 if unknown `[N]`.
        boxes: image -> boxes in pixels of its file; of labels by their index.
        counts: label -> its numbers of positive, negative, uncertain and blank cells.
        roles: role -> header of its column.
        taken: headers of the columns of labels.
        left_out: headers of all other columns that have no role.
        notices: what a user should know, a sentence each.
        laterals: images of the file that are left out by their view.
    """

    path: Path
    labels: tuple[str, ...]
    images: tuple[str, ...]
    lines: tuple[int, ...]
    matrix: np.ndarray
    patients: tuple[str, ...]
    views: tuple[str, ...]
    sexes: tuple[str, ...]
    splits: tuple[str, ...]
    ages: tuple[int, ...]
    boxes: Mapping[str, tuple[Box, ...]]
    counts: Mapping[str, tuple[int, ...]]
    roles: Mapping[str, str]
    taken: tuple[str, ...]
    left_out: tuple[str, ...]
    notices: tuple[str, ...]
    laterals: tuple[str, ...]

    @property
    def listed(self) -> bool:
        """The table lists the labels of each image; otherwise each label has a column."""
        return "labels" in self.roles or "finding" in self.roles

    def columns(self, names: Sequence[str]) -> np.ndarray:
        """Return 0, 1 or `MISSING` for C labels, uint8 `[N, C]`.

        Labels that the table does not have are negative if it is `listed`, otherwise missing.
        """
        absent = np.full(len(self.images), 0 if self.listed else MISSING, np.uint8)
        place = {label: c for c, label in enumerate(self.labels)}
        return np.column_stack(
            [self.matrix[:, place[name]] if name in place else absent for name in names]
        )


def read_label_table(source: Path | CsvTable, options: TableOptions) -> LabelTable:
    """Read a table of labels.

    Args:
        source: a CSV file, gzipped or not, whose ids keep the blanks around them; or a table that
            has been read.
        options: what the user says about it.

    Raises:
        UserError: the table is unusable, or would give a film another label than it has. The
            message names file, line and remedy.
    """
    table = read_csv(source, strip=False)
    roles = find_roles(table, options)
    check_roles(table, roles, options)
    table, laterals, about_views = without_laterals(table, roles, options)
    films = films_of(table.cells(roles["image"]))
    row_labels = read_values(table, roles, options)
    values = merge_rows(table, films, row_labels)
    _check_no_finding(table, films, row_labels.labels, values)
    lists = "labels" in roles or "finding" in roles
    # Labellers leave `No Finding` blank for negative, unless they left the whole row blank.
    labelled = (values != BLANK).any(axis=1) | (values.shape[1] == 1)
    labels = _chosen_labels(table, row_labels, options, lists)
    values = _take(values, row_labels.labels, labels)
    matrix = _matrix(labels, values, options, labelled & (not lists))
    kinds = (POSITIVE, NEGATIVE, UNCERTAIN, BLANK)
    counts = np.stack([(values == kind).sum(axis=0) for kind in kinds], axis=1).tolist()
    blank = [""] * len(films.names)
    cells = film_cells(table, films, roles)
    patients = film_patients(table, films, roles, cells.get("patient"), options.nih)
    ages, unread = film_ages(table, films, cells.get("age", blank))
    views = cells.get("view", blank), cells.get("frontal", blank)
    used = (*roles.values(), *row_labels.columns)
    left_out = [name for i, name in enumerate(table.header) if name and i not in used]
    return LabelTable(
        path=Path(table.path),
        labels=labels,
        images=films.names,
        lines=tuple(table.lines[row] for row in films.first),
        matrix=matrix,
        patients=patients,
        views=tuple(view or frontal for view, frontal in zip(*views, strict=True)),
        sexes=tuple(_SEXES.get(sex.lower(), sex) for sex in cells.get("sex", blank)),
        splits=film_splits(table, films, cells["split"], patients)
        if "split" in cells
        else tuple(blank),
        ages=ages,
        boxes=film_boxes(table, films, roles, row_labels, labels),
        counts=dict(zip(labels, map(tuple, counts), strict=True)),
        roles={role: table.header[column] for role, column in roles.items()},
        taken=tuple(table.header[column] for column in row_labels.columns),
        left_out=tuple(left_out),
        notices=(
            *_notices(labels, matrix, left_out, options),
            *_unused_words(table, row_labels.columns, options),
            *about_views,
            *unread,
        ),
        laterals=laterals,
    )


def _check_no_finding(
    table: CsvTable, films: Films, labels: tuple[str, ...], values: np.ndarray
) -> None:
    """Raise `UserError` if a film has `No Finding` and a finding."""
    if NO_FINDING not in labels:
        return
    beside = (plain(NO_FINDING), plain(BESIDE_NO_FINDING))
    findings = [c for c, name in enumerate(labels) if plain(name) not in beside]
    ill = values[:, findings] == POSITIVE
    both = np.flatnonzero((values[:, labels.index(NO_FINDING)] == POSITIVE) & ill.any(axis=1))
    if len(both):
        finding = labels[findings[int(ill[both[0]].argmax())]]
        raise UserError(
            f"{where(table, films.first[both[0]])}: {NO_FINDING!r} with {finding!r}; correct the "
            f"row"
        )


def _chosen_labels(
    table: CsvTable, row_labels: RowLabels, options: TableOptions, lists: bool
) -> tuple[str, ...]:
    """Return the labels to keep in their order.

    In lists a finding of the paper's may be asked for that no film has.

    Raises:
        UserError: a finding that the options name is missing, or two labels mean the same.
    """
    by_name = {plain(label): label for label in (*LABELS * lists, *row_labels.labels)}
    for option, names in (("findings", options.findings), ("uncertain", options.uncertain_as)):
        for name in names:
            if name and plain(name) not in by_name:
                raise UserError(
                    f"--{option}: {table.path} has no finding {name!r}, but "
                    f"{', '.join(row_labels.labels)[:200]}; name one of these"
                )
    wanted = [by_name[plain(name)] for name in options.findings] or row_labels.labels
    others = [label for label in row_labels.labels if label not in LABELS]
    labels = [label for label in (*FINDINGS, *others, NO_FINDING) if label in wanted]
    synonyms = read_synonyms()
    of_meaning: dict[str, str] = {}
    for label in labels:
        meaning = canonical(label, synonyms)
        other = of_meaning.setdefault(plain(meaning), label)
        if other != label:
            raise UserError(
                f"{table.path}, line 1: {other!r} and {label!r} both mean {meaning} in "
                f"synonyms.csv; keep one"
            )
    return tuple(labels)


def _take(values: np.ndarray, names: Sequence[str], labels: Sequence[str]) -> np.ndarray:
    """Return the columns of some labels; one that no film has is negative in all listed films."""
    unnamed = np.where((values == BLANK).all(axis=1), BLANK, NEGATIVE).astype(np.uint8)
    return np.column_stack(
        [values[:, names.index(label)] if label in names else unnamed for label in labels]
    )


def _matrix(
    labels: Sequence[str], values: np.ndarray, options: TableOptions, labelled: np.ndarray
) -> np.ndarray:
    """Give uncertain and blank labels their meaning.

    Args:
        labels: names of the C columns.
        values: NEGATIVE, POSITIVE, UNCERTAIN or BLANK, uint8 `[N, C]`.
        options: the meanings.
        labelled: the films in which a blank `No Finding` is negative, bool `[N]`.

    Returns:
        0, 1 or `MISSING`, uint8 `[N, C]`.
    """
    policy = {plain(name): meaning for name, meaning in options.uncertain_as.items()}
    uncertain = {"ignore": MISSING, "zeros": 0, "ones": 1}
    blank = {"missing": MISSING, "negative": 0}[options.blank]
    matrix = values.copy()
    for c, label in enumerate(labels):
        column = values[:, c]
        meaning = policy.get(plain(label), policy.get("", "ignore"))
        matrix[column == UNCERTAIN, c] = uncertain[meaning]
        matrix[column == BLANK, c] = blank
        if label == NO_FINDING:
            matrix[labelled & (column == BLANK), c] = 0
    return matrix


def _unused_words(table: CsvTable, columns: Sequence[int], options: TableOptions) -> list[str]:
    """Name the words of the options that no cell has: perhaps a misspelt word, or policy."""
    cells = {cell.strip().casefold() for column in columns for cell in set(table.cells(column))}
    words = (*options.positive, *options.negative, *options.uncertain)
    unused = [repr(word) for word in words if word.strip().casefold() not in cells]
    policies = f"; --uncertain takes {', '.join(UNCERTAIN_AS)} too" * bool(options.uncertain)
    return [f"no label is written {' or '.join(unused)}{policies}"] if unused else []


def _notices(
    labels: Sequence[str], matrix: np.ndarray, left_out: Sequence[str], options: TableOptions
) -> list[str]:
    """Say which columns were left out, and which labels and films cannot be learnt from."""
    notices = []
    if left_out:
        names = ", ".join(map(repr, left_out))
        if options.findings:
            why = "is not in --findings" if len(left_out) == 1 else "are not in --findings"
        else:
            one = "is neither a label nor a role"
            why = one if len(left_out) == 1 else "are neither labels nor roles"
        notices.append(f"{names} {why}; left out")
    for c, label in enumerate(labels):
        lacking = [
            word
            for word, value in (("positives", 1), ("negatives", 0))
            if value not in matrix[:, c]
        ]
        if lacking:
            then = "it trains, and has" if len(lacking) == 1 else "it does not train, and has"
            notices.append(
                f"{label} has 0 {' and 0 '.join(lacking)}: {then} no AUC; --findings leaves it out"
            )
    findings = [label != NO_FINDING for label in labels]
    unknown = int((matrix[:, findings] == MISSING).all(axis=1).sum()) if any(findings) else 0
    unlabelled = int((matrix == MISSING).all(axis=1).sum())
    if unlabelled:
        notices.append(f"{unlabelled:,} rows have no known label; they do not train")
    elif unknown:
        notices.append(f"{unknown:,} rows have no known finding; they train {NO_FINDING!r} alone")
    return notices
