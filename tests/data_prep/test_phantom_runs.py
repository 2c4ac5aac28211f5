"""Runs of data_prep/phantoms.py: interruptions, mistakes, full disks."""

import itertools
import json
import os
import resource
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import cv2
import numpy as np
import pytest

from agcnn_jax.data_prep import phantoms
from agcnn_jax.data_prep.phantom import generate
from agcnn_jax.data_prep.phantom.sheet import contact_sheet
from agcnn_jax.runtime.errors import UserError
from tests.data_prep.nih_files import ROOT
from tests.data_prep.phantom_files import SIZE, files
from tests.support.places import FOLDER, UMASK, run_there


def test_an_interrupted_run_is_completed_by_the_same_command(raw, tmp_path, monkeypatch):
    folder = tmp_path / "raw"
    draw, calls = generate._draw, itertools.count()

    def draw_once(*task):
        if next(calls):
            (folder / "images" / "00000059_000.png").write_bytes(b"half a file")
            raise KeyboardInterrupt
        return draw(*task)

    monkeypatch.setattr(generate, "_draw", draw_once)
    with pytest.raises(KeyboardInterrupt):
        phantoms.generate(folder, 60, SIZE, seed=3, workers=1)
    assert not (folder / "dataset.json").exists()
    with pytest.raises(UserError, match="other options"):
        phantoms.generate(folder, 61, SIZE, seed=3, workers=1)
    monkeypatch.setattr(generate, "_draw", draw)
    assert phantoms.generate(folder, 60, SIZE, seed=3, workers=1)
    assert files(folder) == files(raw)


def test_a_complete_output_is_not_changed(raw):
    before = {path: path.stat().st_mtime_ns for path in raw.rglob("*")}
    assert not phantoms.generate(raw, 60, SIZE, seed=3, workers=2)
    assert before == {path: path.stat().st_mtime_ns for path in raw.rglob("*")}
    with pytest.raises(UserError, match="different seed"):
        phantoms.generate(raw, 60, SIZE, seed=4, workers=2)


def test_a_folder_with_other_files_is_refused(tmp_path):
    (tmp_path / "thesis.txt").write_text("mine")
    with pytest.raises(UserError, match="other files"):
        phantoms.generate(tmp_path, 60, SIZE, seed=3, workers=1)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]
    with pytest.raises(UserError, match="is a file"):
        phantoms.generate(tmp_path / "thesis.txt", 60, SIZE, seed=3, workers=1)


@pytest.mark.parametrize("leftover", [(), ("options.part",)])
def test_a_run_killed_at_its_start_is_continued(raw, tmp_path, leftover):
    (tmp_path / "unfinished").mkdir()
    for name in leftover:
        (tmp_path / "unfinished" / name).write_text('{"a')
    (tmp_path / "images").mkdir()
    with pytest.raises(UserError, match="other files"):
        phantoms.generate(tmp_path, 60, SIZE, seed=3, workers=1)
    (tmp_path / "images").rmdir()
    assert phantoms.generate(tmp_path, 60, SIZE, seed=3, workers=1)
    assert files(tmp_path) == files(raw)


def test_a_folder_of_somebody_elses_unfinished_things_is_kept(tmp_path):
    thesis = tmp_path / "unfinished" / "thesis.tex"
    thesis.parent.mkdir()
    thesis.touch()
    with pytest.raises(UserError, match="other files"):
        phantoms.generate(tmp_path, 2, 64, seed=0, workers=1)
    assert thesis.exists()


@pytest.mark.parametrize("damage", ['{"a', "[]", "", b"\xff", None])
@pytest.mark.parametrize(
    ("name", "said"),
    [("dataset.json", "holds other phantoms"), ("unfinished/options.json", "unfinished phantoms")],
)
def test_damaged_state_is_refused(tmp_path, name, said, damage):
    path = tmp_path / name
    path.parent.mkdir(exist_ok=True)
    if damage is None:
        path.mkdir()
    else:
        path.write_bytes(damage if isinstance(damage, bytes) else damage.encode())
    with pytest.raises(UserError, match=f"{said}.*choose another --out_dir or remove it"):
        phantoms.generate(tmp_path, 60, SIZE, seed=3, workers=1)


def draw_in_a_process(folder, bytes_allowed=None):
    def limit():
        if bytes_allowed is not None:
            resource.setrlimit(resource.RLIMIT_FSIZE, (bytes_allowed, bytes_allowed))

    return subprocess.run(
        [
            *(sys.executable, "-B", ROOT / "data_prep" / "phantoms.py", "--out_dir", folder),
            *("--patients", "10", "--size", "64", "--workers", "1"),
        ],
        capture_output=True,
        text=True,
        preexec_fn=limit,
    )


def test_a_full_disk_gives_one_line_and_the_run_can_continue(tmp_path):
    folder = tmp_path / "raw"
    for allowed in (10, 1000):  # bytes a file: too few for the options, too few for an image
        done = draw_in_a_process(folder, allowed)
        assert done.returncode == 2
        assert done.stderr.count("\n") == 1 and f"--out_dir {folder}: File too large" in done.stderr
        assert not (folder / "dataset.json").exists()
    assert draw_in_a_process(folder).returncode == 0
    image = next((folder / "images").iterdir())
    whole = files(folder)
    marker = json.loads(whole["dataset.json"])
    (folder / "dataset.json").unlink()
    shutil.rmtree(folder / "images")
    (folder / "images").mkdir()
    (folder / "unfinished").mkdir()
    (folder / "unfinished" / "options.json").write_text(
        json.dumps({k: v for k, v in marker.items() if k not in ("collection", "images")})
    )
    image.symlink_to("/dev/full")
    done = draw_in_a_process(folder)
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1 and "No space left on device" in done.stderr
    image.unlink()
    assert draw_in_a_process(folder).returncode == 0
    assert files(folder) == whole


def test_names_that_are_not_utf8(tmp_path):
    folder = Path(os.fsdecode(os.fsencode(tmp_path / "raw") + b"\xff"))
    done = draw_in_a_process(folder)
    assert (done.returncode, done.stderr) == (0, "")
    assert "raw\\udcff: " in done.stdout
    files = sorted((folder / "images").iterdir())
    assert len(files) == json.loads((folder / "dataset.json").read_text())["images"]
    assert cv2.imdecode(np.frombuffer(files[0].read_bytes(), np.uint8), -1).shape == (64, 64)


def test_a_contact_sheet_that_cannot_be_written_leaves_nothing(tmp_path):
    (tmp_path / "sheet.png").mkdir()
    with pytest.raises(UserError, match=r"--contact_sheet .*sheet\.png: Is a directory"):
        contact_sheet(tmp_path / "sheet.png", 0, 64)
    assert [path.name for path in tmp_path.iterdir()] == ["sheet.png"]


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        ([], "--out_dir"),
        (["--out_dir", "OUT", "--patients", "3"], "--patients 3"),
        (["--out_dir", "OUT", "--size", "16"], "--size 16"),
        (["--out_dir", "OUT", "--seed", "-1"], "--seed -1"),
        (["--out_dir", "OUT", "--workers", "0"], "--workers 0"),
        (["--out_dir", "OUT", "--sise", "64"], "--sise"),
        (["--contact_sheet", "no/such/folder/sheet.png", "--size", "64"], "sheet.png"),
        (["--out_dir", "OUT", "--contact_sheet", "x.foo"], "--contact_sheet x.foo"),
    ],
)
def test_mistakes_end_with_one_line_and_status_2(arguments, named, tmp_path):
    arguments = [str(tmp_path / "out") if word == "OUT" else word for word in arguments]
    done = subprocess.run(
        [sys.executable, ROOT / "data_prep" / "phantoms.py", *arguments],
        capture_output=True,
        text=True,
        cwd=tmp_path,
    )
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert named in done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "out").exists()


def test_command_line_draws_a_cohort_and_a_contact_sheet(tmp_path):
    folder = tmp_path / FOLDER
    folder.mkdir()
    command = [ROOT / "data_prep" / "phantoms.py", "--size", "64"]
    cohort = [*command, "--out_dir", "für alle", "--patients", "10", "--workers", "1"]
    for said in ("für alle: ", "already complete"):
        done = run_there(*cohort, cwd=folder)
        assert done.returncode == 0, done.stderr
        assert said in done.stdout
        assert not done.stderr
    assert not any(path.stat().st_mode & UMASK for path in (folder / "für alle").rglob("*"))
    sheet = run_there(*command, "--contact_sheet", "sheet.png", cwd=folder)
    assert sheet.returncode == 0, sheet.stderr
    assert cv2.imread(str(folder / "sheet.png"), 0).shape[1] == 5 * 64


def test_ctrl_c_ends_with_one_line_and_no_marker(tmp_path):
    folder = tmp_path / "raw"
    command = [sys.executable, ROOT / "data_prep" / "phantoms.py", "--out_dir", folder]
    command += ["--patients", "2000", "--size", "64", "--workers", "2"]
    running = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    )
    deadline = time.monotonic() + 60
    while not list(folder.glob("unfinished/boxes_*.json")) and time.monotonic() < deadline:
        time.sleep(0.05)
    os.killpg(running.pid, signal.SIGINT)
    _, complaint = running.communicate(timeout=60)
    assert running.returncode == 130
    assert "run the same command again" in complaint
    assert "Traceback" not in complaint
    assert not (folder / "dataset.json").exists()


def test_drawing_does_not_import_jax():
    code = "import sys, agcnn_jax.data_prep.phantoms; sys.exit('jax' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT).returncode == 0
