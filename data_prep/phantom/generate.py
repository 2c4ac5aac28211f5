"""Generating a cohort in several processes; an interrupted run can be continued."""

from __future__ import annotations

import json
import multiprocessing
import os
import shutil
import signal
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path

import cv2

from agcnn_jax.data.collection import FILE
from agcnn_jax.runtime import errors
from agcnn_jax.runtime.progress import Progress
from data_prep.phantom import cohort
from data_prep.phantom.cohort import Patient
from data_prep.phantom.output import UNFINISHED, is_complete, open_output, read_json
from data_prep.phantom.render import PROVENANCE, render
from data_prep.phantom.tables import BOX_NAMES, corner_and_size, file_name, write_tables

VERSION = 1
PATIENTS_A_TASK = 24


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
    tasks = [people[i : i + PATIENTS_A_TASK] for i in range(0, count, PATIENTS_A_TASK)]
    cohort_seed = cohort.cohort_seed(seed, prevalence)
    pending = [(cohort_seed, size, out_dir, i, task) for i, task in enumerate(tasks)
            if not _boxes_file(work, i).exists()]  # fmt: skip
    total = sum(len(person.films) for person in people)
    done = total - sum(len(p.films) for *_, task in pending for p in task)
    with Progress("phantoms", total, "images", done) as progress:
        if workers == 1 or len(pending) <= 1:
            for job in pending:
                progress.update(_draw(*job))
        elif pending:
            _draw_parallel(pending, workers, progress)
    boxes = [row for i in range(len(tasks)) for row in _read_boxes(_boxes_file(work, i))]
    write_tables(out_dir, people, boxes, size)
    content = options | {"collection": collection(seed, prevalence), "images": total}
    (work / FILE).write_text(json.dumps(content, indent=1) + "\n")
    os.replace(work / FILE, out_dir / FILE)
    shutil.rmtree(work)
    return True


def _draw_parallel(pending: list[tuple], workers: int, progress: Progress) -> None:
    """Run `_draw` in spawned processes, which do not inherit the caller's threads."""
    context = multiprocessing.get_context("spawn")
    count = min(workers, len(pending))
    with ProcessPoolExecutor(count, context, _ignore_interrupts) as pool:
        try:
            # The processes begin with this one's mask, so that none ends while it imports.
            previous = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
            try:
                drawn = pool.map(_draw, *zip(*pending, strict=True))
            finally:
                signal.pthread_sigmask(signal.SIG_SETMASK, previous)
            for films in drawn:
                progress.update(films)
        except BrokenProcessPool as error:
            raise errors.UserError(
                f"--workers {workers}: a worker was killed, perhaps for lack of memory; run again "
                "with fewer to continue"
            ) from error
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise


def _ignore_interrupts() -> None:
    """Ignore Ctrl-C, which a terminal sends to all processes; the parent handles it."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def _draw(cohort_seed: int, size: int, out_dir: Path, task: int, people: list[Patient]) -> int:
    """Draw the films of some patients; their boxes, written last, mark them as complete."""
    cv2.setNumThreads(1)
    rows: list[list[str | int]] = []
    films = 0
    for person in people:
        for film in person.films:
            image, found = render(cohort_seed, person, film, size)
            name = file_name(person.number, film.follow_up)
            path = out_dir / "images" / name
            # Not imwrite, which crashes on names that are not UTF-8 and hides why it fails.
            path.write_bytes(cv2.imencode(".png", image)[1].tobytes())
            films += 1
            for finding, boxes in found:
                label = BOX_NAMES.get(finding, finding)
                rows += [[name, label, *corner_and_size(box)] for box in boxes.tolist()]
    target = _boxes_file(out_dir / UNFINISHED, task)
    target.with_suffix(".part").write_text(json.dumps(rows))
    os.replace(target.with_suffix(".part"), target)
    return films


def _boxes_file(work: Path, task: int) -> Path:
    return work / f"boxes_{task:05d}.json"


def _read_boxes(path: Path) -> list[list[str | int]]:
    rows = read_json(path)
    if not isinstance(rows, list):
        raise errors.UserError(f"{path}: damaged; remove it and run the same command again")
    return rows
