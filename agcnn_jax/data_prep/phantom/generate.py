"""Generating a cohort in several processes; an interrupted run can be continued."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import cv2

from agcnn_jax.data.collection import FILE
from agcnn_jax.data_prep.phantom import cohort
from agcnn_jax.data_prep.phantom.cohort import Patient
from agcnn_jax.data_prep.phantom.output import is_complete, open_output
from agcnn_jax.data_prep.phantom.render import PROVENANCE, render
from agcnn_jax.data_prep.phantom.tables import BOX_NAMES, corner_and_size, file_name, write_tables
from agcnn_jax.data_prep.prepare.workers import run_tasks
from agcnn_jax.runtime import errors
from agcnn_jax.runtime.progress import Progress

VERSION = 1
PATIENTS_A_TASK = 24


class Task(NamedTuple):
    """Patients whose films one process draws, and the file of their boxes."""

    boxes: Path
    people: list[Patient]


class Context(NamedTuple):
    """What every task needs: the cohort's seed, the side of the images in pixels, the folder."""

    seed: int
    size: int
    out_dir: Path


def collection(seed: int, prevalence: str) -> str:
    """Return the name of the set in which file names are unique, for any size and patient count."""
    return f"phantoms {VERSION}, seed {seed}, prevalence {prevalence}"


def generate(
    out_dir: Path, count: int, size: int, seed: int, workers: int, prevalence: str = "floor"
) -> bool:
    """Write a cohort of phantoms, or complete an unfinished one.

    Args:
        out_dir: output folder: new, empty, or from an earlier run with the same options.
        count: number of patients.
        size: side of the images in pixels.
        seed: seed of the cohort.
        workers: number of processes; does not change the output.
        prevalence: of the findings, one of `cohort.PREVALENCES`.

    Returns:
        False if the output was already complete.

    Raises:
        UserError: `out_dir` holds something else or cannot be written.
    """
    try:
        return _generate(out_dir, count, size, seed, workers, prevalence)
    except OSError as error:
        if message := errors.too_many_files(error.errno):
            raise errors.UserError(message) from None
        raise errors.UserError(
            f"--out_dir {out_dir}: {error.strerror} ({error.filename or 'while writing'}); free "
            "some space or choose another folder, then run again to continue"
        ) from None


def _generate(
    out_dir: Path, count: int, size: int, seed: int, workers: int, prevalence: str
) -> bool:
    options = {
        "provenance": PROVENANCE,
        "synthetic": True,
        "version": VERSION,
        "box_size": size,
        "seed": seed,
        "prevalence": prevalence,
        "patients": count,
    }
    if is_complete(out_dir, options):
        return False
    work = open_output(out_dir, options)
    people = list(cohort.patients(seed, count, prevalence))
    tasks = [
        Task(work / f"boxes_{i:05d}.json", people[start : start + PATIENTS_A_TASK])
        for i, start in enumerate(range(0, count, PATIENTS_A_TASK))
    ]
    pending = [task for task in tasks if not task.boxes.exists()]
    context = Context(cohort.cohort_seed(seed, prevalence), size, out_dir)
    total = sum(len(person.films) for person in people)
    before = total - sum(len(person.films) for task in pending for person in task.people)
    with Progress("phantoms", total, "images", before) as bar:

        def report(images: int, done: int) -> None:
            bar.update(before + images - bar.done)

        run_tasks(_draw, pending, context, work, workers, report)
    boxes = [row for task in tasks for row in json.loads(task.boxes.read_text())]
    write_tables(out_dir, people, boxes, size)
    content = options | {"collection": collection(seed, prevalence), "images": total}
    (work / FILE).write_text(json.dumps(content, indent=1) + "\n")
    os.replace(work / FILE, out_dir / FILE)
    shutil.rmtree(work)
    return True


def _draw(task: Task, context: Context, progress: Callable[[], None]) -> None:
    """Draw the films of some patients; their boxes, written last, mark them as complete."""
    cv2.setNumThreads(1)
    rows: list[list[str | int]] = []
    for person in task.people:
        for film in person.films:
            image, lesions = render(context.seed, person, film, context.size)
            name = file_name(person.number, film.follow_up)
            path = context.out_dir / "images" / name
            # Not imwrite, which crashes on names that are not UTF-8 and hides why it fails.
            path.write_bytes(cv2.imencode(".png", image)[1].tobytes())
            for finding, boxes in lesions:
                label = BOX_NAMES.get(finding, finding)
                rows += [[name, label, *corner_and_size(box)] for box in boxes.tolist()]
            progress()
    part = task.boxes.with_suffix(".part")
    part.write_text(json.dumps(rows))
    os.replace(part, task.boxes)
