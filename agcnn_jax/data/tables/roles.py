"""Roles of a table's columns: the image, its patient and what else is known of it."""

from __future__ import annotations

from agcnn_jax.data.tables.csv_table import BLANKS, CsvTable
from agcnn_jax.data.tables.options import TableOptions
from agcnn_jax.data.text import IMAGE_COLUMNS, plain
from agcnn_jax.runtime.errors import UserError

CORNERS = ("xmin", "ymin", "xmax", "ymax")
SIDES = ("x", "y", "width", "height")

ROLES: dict[str, tuple[str, ...]] = {
    "image": (*IMAGE_COLUMNS, "dicom id", "PngPath", "DicomPath", "path to image", "img id"),
    "patient": ("Patient ID", "patient", "subject id", "subject", "deid patient id"),
    "study": ("study", "study id", "AccessionNumber", "accession"),
    "frontal": ("Frontal/Lateral", "frontal lateral"),
    "view": ("View Position", "view", "AP/PA", "ap pa", "Projection"),
    "age": ("Patient Age", "age"),
    "sex": ("Patient Gender", "Patient Sex", "sex", "gender", "PatientSex_DICOM"),
    "split": ("split",),
    "labels": ("Finding Labels", "labels"),
    "finding": ("class name", "finding"),
    "value": ("value",),
    **{name: (name,) for name in (*CORNERS, *SIDES)},
}
"""Role -> usual headers, in any spelling; the first that a table has counts.

`frontal` tells frontal films from lateral ones; without it `view` does. `labels` has a film's
findings in one cell. `finding` has one, so that a film may have several rows, and `value` says
whether it is there. A table without these two has a column for each finding.
"""


def find_roles(table: CsvTable, options: TableOptions) -> dict[str, int]:
    """Return the column of each role that the table has.

    Raises:
        UserError: a header that the options name is missing, or a header occurs twice.
    """
    roles = {role: table.column(header) for role, header in options.columns.items() if header}
    here = set(map(plain, table.header))
    for role, usual in ROLES.items():
        name = next((name for name in usual if plain(name) in here), None)
        if role not in options.columns and name is not None:
            column = table.column(name)
            if column not in roles.values():
                roles[role] = column
    # What a user names says how the table is arranged; of the usual headers `labels` goes first.
    if "labels" in roles and (options.columns.get("labels") or not options.columns.get("finding")):
        roles.pop("finding", None)
    if "finding" in roles:
        roles.pop("labels", None)
    else:
        roles.pop("value", None)
    sides = next((four for four in (CORNERS, SIDES) if set(four) <= roles.keys()), ())
    return {
        role: column
        for role, column in roles.items()
        if role not in (*CORNERS, *SIDES) or role in sides
    }


def check_roles(table: CsvTable, roles: dict[str, int], options: TableOptions) -> None:
    """Raise `UserError` if images or patients have no column, or a row has none of them."""
    if "image" not in roles:
        shown = ", ".join(map(repr, table.header[:6]))
        raise UserError(
            f"{table.path}, line 1: no column of images among {shown}; name it with --image_column"
        )
    if options.one_patient_per_film and "patient" in roles:
        raise UserError(
            f"{table.path}, line 1: {table.header[roles['patient']]!r} is a column of patients; "
            f"leave --one_patient_per_film out"
        )
    if not options.one_patient_per_film and "patient" not in roles:
        raise UserError(
            f"{table.path}, line 1: no column of patients; name it with --patient_column, or give "
            f"--one_patient_per_film if no patient has two films"
        )
    for column in (roles[role] for role in ("image", "patient") if role in roles):
        for line, cell in zip(table.lines, table.cells(column), strict=True):
            if cell.strip().lower() in BLANKS:
                problem = repr(cell) if cell.strip() else "empty"
                raise UserError(
                    f"{table.path}, line {line}: {table.header[column]!r} is {problem}; complete "
                    f"or delete the row"
                )
