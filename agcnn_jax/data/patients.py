"""Patient ids: which texts stand for one patient."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from decimal import Decimal
from pathlib import Path

from agcnn_jax.data.text import stem
from agcnn_jax.runtime.errors import UserError

CHESTXRAY14 = "ChestX-ray14"
"""The collection of the NIH (Wang et al. 2017)."""

NIH_NAME = re.compile(r"(\d{8})_\d{3}\.png", re.ASCII)
"""A file name of the NIH, which begins with the patient's number."""

_WHOLE = re.compile(r"\d+", re.ASCII)
# What only a float is: 12e3 may be hexadecimal.
_PLAINLY_FLOAT = re.compile(
    r"[+-]?((\d+[.,]\d*|[.,]\d+)([eE][+-]?\d{1,4})?|\d+[eE][+-]\d{1,4})", re.ASCII
)
_FLOAT = re.compile(r"[+-]?(\d+[.,]\d*|[.,]\d+|\d+(?=[eE]))([eE][+-]?\d{1,4})?", re.ASCII)


def nih_name(name: str) -> str | None:
    """Return the NIH's name of an image, whatever its folders and extension; None if it has none.

    The name of 00000013_005.PNG in any folder is 00000013_005.png.
    """
    usual = name if NIH_NAME.fullmatch(name) else f"{stem(name)}.png"
    return usual if NIH_NAME.fullmatch(usual) else None


def patient_key(patient: str) -> str:
    """Return what is equal for two ids of one patient: of a whole number, its usual digits.

    A table that passed through a spreadsheet has 7 for 007. No number type is used, so any number
    of digits counts.
    """
    return (patient.lstrip("0") or "0") if _WHOLE.fullmatch(patient) else patient


def read_patients(
    patients: Sequence[str], lines: Sequence[int], path: str | Path, column: str, nih: bool
) -> list[str]:
    """Check a table's patient ids, and make those of one patient equal.

    Args:
        patients: the ids `[N]`, not empty.
        lines: of the ids in the file `[N]`.
        path: of the file.
        column: header of the ids.
        nih: the table is ChestX-ray14's, whose patients are numbers. In others ids are text.

    Returns:
        The ids `[N]`: numbers in their usual digits if `nih`, otherwise as they are.

    Raises:
        UserError: if `nih` and an id is in float notation, which may have lost digits; or if not
            `nih` and two ids are the same number, such as 007 and 7, or differ only by blanks
            around them. Names the lines.
    """
    line_of: dict[str, int] = {}
    for patient, line in zip(patients, lines, strict=True):
        line_of.setdefault(patient, line)
    first: dict[str, str] = {}
    for patient, line in line_of.items():
        if nih and _FLOAT.fullmatch(patient):
            raise UserError(
                f"{path}, line {line}: {column!r} is {patient!r}, not a whole number; write the "
                f"ids without decimal point and exponent, such as 13"
            )
        usual = first.setdefault(_number(patient), patient)
        if not nih and usual != patient:
            raise UserError(
                f"{path}, line {line}: {column!r} is {patient!r}, but {usual!r} on line "
                f"{line_of[usual]}; write one patient in one way, and others differently"
            )
    return [patient_key(patient) for patient in patients] if nih else list(patients)


def _number(patient: str) -> str:
    """Return a key that is equal for two ids whose one number differs only in leading zeros.

    That is 17 for 017 and 17.0, and P17 for P017; blanks around an id are left out too.
    """
    patient = patient.strip()
    if _PLAINLY_FLOAT.fullmatch(patient):
        whole, _, fraction = f"{Decimal(patient.replace(',', '.')):f}".partition(".")
        patient = ".".join(filter(None, (whole, fraction.rstrip("0"))))
    return re.sub(r"^(\D*)0+(\d+\D*)$", r"\1\2", patient, flags=re.ASCII)


def comparable(patients: Iterable[str], others: Iterable[str]) -> bool:
    """Tell whether ids of two tables may be of one numbering: an id of each has the same form."""
    return not {_form(one) for one in patients}.isdisjoint({_form(one) for one in others})


def _form(patient: str) -> str:
    """Return what the ids of one numbering share.

    An id with one number has the text around it (`P0` for P017), any other its punctuation and its
    length, such as a hash.
    """
    match = re.fullmatch(r"(\D*)\d+(\D*)", patient)
    return f"{match[1]}0{match[2]}" if match else re.sub(r"\w", "x", patient)
