"""Synthetic chest radiographs in the layout of NIH's ChestX-ray14.

    python data_prep/phantoms.py --out_dir RAW [--patients N] [--size 256] [--seed 0] \
        [--prevalence floor|real] [--workers N]

Writes `RAW/images/*.png` (8-bit gray), `Data_Entry_2017_v2020.csv`, `BBox_List_2017.csv` (pixels
of the files themselves), `train_val_list.txt`, `test_list.txt` and, last, `phantoms.json`, which
says that all of it is synthetic. A run that was interrupted is completed by the same command.
"""

from __future__ import annotations

import argparse
import csv
import json
import multiprocessing
import os
import shutil
import signal
import sys
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import Any

import cv2
from tqdm import tqdm

if __name__ == "__main__":
    # `python data_prep/phantoms.py` puts data_prep, not the project, on the path.
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from agcnn_jax.runtime import errors
from data_prep.phantom import cohort
from data_prep.phantom.cohort import Patient
from data_prep.phantom.render import PROVENANCE, render
from data_prep.phantom.sheet import contact_sheet

VERSION = 1
MARKER = "phantoms.json"
UNFINISHED = "unfinished"
DEFAULT_PATIENTS = 1200
MIN_PATIENTS, MIN_SIZE, MAX_SIZE = 10, 64, 1024
PATIENTS_A_TASK = 24
FIELD_OF_VIEW_MM = 400
ENTRY_HEADER = (
    "Image Index,Finding Labels,Follow-up #,Patient ID,Patient Age,Patient Gender,View Position,"
    "OriginalImage[Width,Height],OriginalImagePixelSpacing[x,y]"
)
BOX_HEADER = "Image Index,Finding Label,Bbox [x,y,w,h],,,"
# NIH's box list calls this finding by another name than its table.
BOX_NAMES = {"Infiltration": "Infiltrate"}


def file_name(number: int, follow_up: int) -> str:
    """NIH's name of a film."""
    return f"{number:08d}_{follow_up:03d}.png"


def collection(seed: int, prevalence: str) -> str:
    """Within which a name means one phantom, at whatever size and in however large a cohort."""
    return f"phantoms {VERSION}, seed {seed}, prevalence {prevalence}"


def generate(
    out_dir: Path, count: int, size: int, seed: int, workers: int, prevalence: str = "floor"
) -> bool:
    """Write a cohort of phantoms, or what is missing of it.

    Args:
        out_dir: the folder to write; absent, empty, or left by the same options.
        count: patients.
        size: pixels a side.
        seed: of the cohort.
        workers: processes; the output does not depend on it.
        prevalence: of the findings, one of `cohort.PREVALENCES`.

    Returns:
        False when the output was already complete.

    Raises:
        UserError: `out_dir` holds something else, or it cannot be written.
    """
    try:
        return _generate(out_dir, count, size, seed, workers, prevalence)
    except OSError as error:
        raise errors.UserError(
            f"--out_dir {out_dir}: {error.strerror} ({error.filename or 'while writing'}); make "
            "room or choose another folder and run again, what is done is kept"
        ) from None


def _generate(
    out_dir: Path, count: int, size: int, seed: int, workers: int, prevalence: str
) -> bool:
    options = {"provenance": PROVENANCE, "version": VERSION, "box_size": size, "seed": seed,
               "prevalence": prevalence, "patients": count}  # fmt: skip
    if _finished(out_dir, options):
        return False
    work = _claim(out_dir, options)
    people = list(cohort.patients(seed, count, prevalence))
    tasks = [people[i : i + PATIENTS_A_TASK] for i in range(0, count, PATIENTS_A_TASK)]
    stream = cohort.stream(seed, prevalence)
    todo = [(stream, size, out_dir, i, task) for i, task in enumerate(tasks)
            if not _boxes_file(work, i).exists()]  # fmt: skip
    total = sum(len(person.films) for person in people)
    with tqdm(total=total, unit="image", desc="phantoms", disable=None) as progress:
        progress.update(total - sum(len(p.films) for *_, task in todo for p in task))
        if workers == 1 or len(todo) <= 1:
            for job in todo:
                progress.update(_draw(*job))
        elif todo:
            _draw_parallel(todo, workers, progress)
    boxes = [row for i in range(len(tasks)) for row in _read_boxes(_boxes_file(work, i))]
    _write_tables(out_dir, people, boxes, size)
    marker = work / MARKER
    made = options | {"collection": collection(seed, prevalence), "images": total}
    marker.write_text(json.dumps(made, indent=1) + "\n")
    os.replace(marker, out_dir / MARKER)
    shutil.rmtree(work)
    return True


def _draw_parallel(todo: list[tuple], workers: int, progress: tqdm) -> None:
    """Run `_draw` in processes that start clean, with neither threads nor JAX of the caller."""
    context = multiprocessing.get_context("spawn")
    count = min(workers, len(todo))
    with ProcessPoolExecutor(count, context, _leave_interrupts_to_the_parent) as pool:
        try:
            for films in pool.map(_draw, *zip(*todo, strict=True)):
                progress.update(films)
        except BrokenProcessPool as error:
            raise errors.UserError(
                "a worker process was killed, perhaps for memory; run the same command again, "
                f"with fewer than --workers {workers}"
            ) from error
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise


def _leave_interrupts_to_the_parent() -> None:
    """Ctrl-C reaches every process of the terminal; only the parent shall speak of it."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def _draw(stream: int, size: int, out_dir: Path, task: int, people: list[Patient]) -> int:
    """Draw the films of some patients; their boxes, written last, tell that they are complete."""
    cv2.setNumThreads(1)
    rows: list[list[str | int]] = []
    films = 0
    for person in people:
        for film in person.films:
            image, found = render(stream, person, film, size)
            name = file_name(person.number, film.follow_up)
            path = out_dir / "images" / name
            # Not imwrite: it crashes on names that are not UTF-8 and hides why it fails.
            path.write_bytes(cv2.imencode(".png", image)[1].tobytes())
            films += 1
            for finding, boxes in found:
                label = BOX_NAMES.get(finding, finding)
                rows += [[name, label, *_corner_and_size(box)] for box in boxes.tolist()]
    target = _boxes_file(out_dir / UNFINISHED, task)
    target.with_suffix(".part").write_text(json.dumps(rows))
    os.replace(target.with_suffix(".part"), target)
    return films


def _corner_and_size(box: list[int]) -> list[int]:
    """(xmin, ymin, xmax, ymax) as NIH's (x, y, w, h)."""
    return [box[0], box[1], box[2] - box[0], box[3] - box[1]]


def _boxes_file(work: Path, task: int) -> Path:
    return work / f"boxes_{task:05d}.json"


def _read_boxes(path: Path) -> list[list[str | int]]:
    rows = _read_json(path)
    if not isinstance(rows, list):
        raise errors.UserError(f"{path}: damaged; remove it and run the same command again")
    return rows


def _read_json(path: Path) -> Any:
    """Return what a JSON file of ours holds, None if it is damaged or no file."""
    if not path.is_file():
        return None
    try:
        return json.loads(path.read_text("utf-8"))
    except ValueError:
        return None


def _finished(out_dir: Path, options: dict) -> bool:
    """Whether these very phantoms are in `out_dir`; an error if other finished ones are."""
    marker = out_dir / MARKER
    if not marker.exists():
        return False
    there = _read_json(marker)
    if not isinstance(there, dict) or not isinstance(there.get("images"), int):
        raise errors.UserError(
            f"{marker}: damaged; remove {out_dir} and run again, or choose another --out_dir"
        )
    different = [key for key, value in options.items() if there.get(key) != value]
    if different:
        raise errors.UserError(
            f"{out_dir} holds other phantoms (different {', '.join(different)}); "
            "choose another --out_dir or remove it"
        )
    shutil.rmtree(out_dir / UNFINISHED, ignore_errors=True)
    return True


def _claim(out_dir: Path, options: dict) -> Path:
    """Make `out_dir` ours, or take it up where a run with the same options left it."""
    work = out_dir / UNFINISHED
    note = work / "options.json"
    if out_dir.exists() and not out_dir.is_dir():
        raise errors.UserError(f"{out_dir} is a file; choose another --out_dir")
    if note.exists():
        begun = _read_json(note)
        if not isinstance(begun, dict):
            raise errors.UserError(
                f"{note}: damaged; remove {out_dir} and run again, or choose another --out_dir"
            )
        if begun != options:
            raise errors.UserError(
                f"{out_dir} holds phantoms begun with other options; choose another --out_dir or "
                "remove it"
            )
    elif out_dir.exists() and not _unclaimed(out_dir):
        raise errors.UserError(
            f"{out_dir} holds other files; choose another --out_dir or remove it"
        )
    work.mkdir(parents=True, exist_ok=True)
    (out_dir / "images").mkdir(exist_ok=True)
    note.with_suffix(".part").write_text(json.dumps(options))
    os.replace(note.with_suffix(".part"), note)
    return work


def _unclaimed(out_dir: Path) -> bool:
    """Whether nothing is in `out_dir`, or what a run leaves that was killed before its note."""
    there = {path.name: path for path in out_dir.iterdir()}
    if not there:
        return True
    if UNFINISHED not in there or there.keys() - {UNFINISHED, "images"}:
        return False
    if not all(path.is_dir() for path in there.values()):
        return False
    images = there.get("images")
    return (images is None or not any(images.iterdir())) and all(
        path.suffix == ".part" for path in there[UNFINISHED].iterdir()
    )


def _write_tables(out_dir: Path, people: list[Patient], boxes: list[list], size: int) -> None:
    """NIH's table, box list and lists of names."""
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


def _options() -> argparse.Namespace:
    parser = errors.OneLineParser(description="Draw synthetic chest radiographs (phantoms).")
    parser.add_argument("--out_dir", type=Path, help="folder to write, in NIH's layout")
    parser.add_argument("--patients", type=int, default=DEFAULT_PATIENTS,
                        help="patients; %(default)s make about 4,000 images")  # fmt: skip
    parser.add_argument("--size", type=int, default=256, help="pixels a side (%(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="another seed, another cohort")
    parser.add_argument("--prevalence", choices=cohort.PREVALENCES, default="floor",
                        help="floor: every finding on at least 3 %% of the films; real: as in "
                        "ChestX-ray14, where hernias are on 0.2 %% (%(default)s)")  # fmt: skip
    parser.add_argument("--workers", type=int, default=len(os.sched_getaffinity(0)),
                        help="processes; no matter to the output (%(default)s)")  # fmt: skip
    parser.add_argument("--contact_sheet", type=Path, metavar="FILE",
                        help="only save one picture of each finding")  # fmt: skip
    given = parser.parse_args()
    if given.out_dir is None and given.contact_sheet is None:
        raise errors.UserError("--out_dir is missing; name the folder to write")
    for option, value, low, high in (
        ("--patients", given.patients, MIN_PATIENTS, 99_999_999),
        ("--size", given.size, MIN_SIZE, MAX_SIZE),
        ("--seed", given.seed, 0, 2**32 - 1),
        ("--workers", given.workers, 1, 4096),
    ):
        if not low <= value <= high:
            raise errors.UserError(f"{option} {value} is outside {low} to {high}")
    sheet = given.contact_sheet
    if sheet is not None and sheet.suffix.lower() != ".png":
        raise errors.UserError(f"--contact_sheet {sheet}: must be the name of a .png file")
    return given


def _say(text: str) -> None:
    """Print, also names of files that are not UTF-8."""
    print(text.encode(errors="backslashreplace").decode())


def main() -> None:
    """Run the command line."""
    given = _options()
    if given.contact_sheet is not None:
        contact_sheet(given.contact_sheet, given.seed, given.size)
        _say(f"{given.contact_sheet}: {PROVENANCE}")
    if given.out_dir is not None:
        new = generate(
            given.out_dir, given.patients, given.size, given.seed, given.workers, given.prevalence
        )
        images = json.loads((given.out_dir / MARKER).read_text())["images"]
        note = "" if new else "already complete, nothing done: "
        _say(f"{given.out_dir}: {note}{images} images of {given.patients} patients, {PROVENANCE}")


if __name__ == "__main__":
    errors.run(main)
