"""Writing a cohort's tables as NIH's: labels, boxes, official lists."""

from __future__ import annotations

import csv
from pathlib import Path

from agcnn_jax.data_prep.phantom import cohort
from agcnn_jax.data_prep.phantom.cohort import Patient

FIELD_OF_VIEW_MM = 400
ENTRY_HEADER = (
    "Image Index,Finding Labels,Follow-up #,Patient ID,Patient Age,Patient Gender,View Position,"
    "OriginalImage[Width,Height],OriginalImagePixelSpacing[x,y]"
)
BOX_HEADER = "Image Index,Finding Label,Bbox [x,y,w,h],,,"
# NIH's box list and label table name this finding differently.
BOX_NAMES = {"Infiltration": "Infiltrate"}


def file_name(number: int, follow_up: int) -> str:
    """Return the name of a film's file, as NIH's."""
    return f"{number:08d}_{follow_up:03d}.png"


def corner_and_size(box: list[int]) -> list[int]:
    """Convert (xmin, ymin, xmax, ymax) to NIH's (x, y, w, h)."""
    return [box[0], box[1], box[2] - box[0], box[3] - box[1]]


def write_tables(out_dir: Path, people: list[Patient], boxes: list[list], size: int) -> None:
    """Write the label table, the box list and both official lists to `out_dir`.

    Args:
        out_dir: existing folder.
        people: the cohort.
        boxes: rows of the box list.
        size: side of the images in pixels.
    """
    spacing = round(FIELD_OF_VIEW_MM / size, 4)
    with (out_dir / "Data_Entry_2017_v2020.csv").open("w", newline="") as file:
        file.write(ENTRY_HEADER + "\n")
        table = csv.writer(file, lineterminator="\n")
        for person in people:
            for film in person.films:
                table.writerow([
                    file_name(person.number, film.follow_up),
                    "|".join(film.findings) or cohort.NO_FINDING,
                    film.follow_up, person.number, film.age, "F" if person.female else "M",
                    "AP" if film.portable else "PA", size, size, spacing, spacing,
                ])  # fmt: skip
    with (out_dir / "BBox_List_2017.csv").open("w", newline="") as file:
        file.write(BOX_HEADER + "\n")
        csv.writer(file, lineterminator="\n").writerows(boxes)
    tested = cohort.in_test(people)
    for name, wanted in (("train_val_list.txt", False), ("test_list.txt", True)):
        names = [
            file_name(person.number, film.follow_up)
            for person, held_out in zip(people, tested, strict=True)
            if held_out == wanted
            for film in person.films
        ]
        (out_dir / name).write_text("".join(f"{line}\n" for line in names))
