"""Phantoms: NIH's layout, the real table's statistics, true boxes, the same output every time."""

import csv
import gzip
import itertools
import json
import os
import re
import resource
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import cv2
import numpy as np
import pytest
from scipy.stats import spearmanr

from agcnn_jax.runtime.errors import UserError
from data_prep import phantoms
from data_prep.phantom import anatomy, cohort, lesions
from data_prep.phantom.cohort import Film
from data_prep.phantom.lesions import FINDINGS
from data_prep.phantom.render import render
from data_prep.phantom.sheet import contact_sheet

ROOT = Path(__file__).resolve().parents[2]
SHARED = ROOT.parent / "shared" / "chestxray14"
SIZE = 64


@pytest.fixture(scope="module")
def raw(tmp_path_factory):
    """A small finished cohort, drawn by two processes."""
    folder = tmp_path_factory.mktemp("phantoms") / "raw"
    assert phantoms.generate(folder, 60, SIZE, seed=3, workers=2)
    return folder


def contents(folder):
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def table(folder):
    with (folder / "Data_Entry_2017_v2020.csv").open() as file:
        return list(csv.DictReader(file))


def test_layout_reads_back_as_the_nih_download_does(raw):
    rows = table(raw)
    files = sorted(path.name for path in (raw / "images").iterdir())
    assert [row["Image Index"] for row in rows] == files
    for row in rows:
        name, number, follow_up = row["Image Index"], row["Patient ID"], row["Follow-up #"]
        assert name == f"{int(number):08d}_{int(follow_up):03d}.png"
        assert row["Patient Gender"] in ("M", "F")
        assert row["View Position"] in ("PA", "AP")
        assert 0 < int(row["Patient Age"]) < 100
        names = row["Finding Labels"].split("|")
        assert names == [cohort.NO_FINDING] or set(names) <= set(FINDINGS)
    header = (raw / "Data_Entry_2017_v2020.csv").read_text().splitlines()[0]
    assert header == (
        "Image Index,Finding Labels,Follow-up #,Patient ID,Patient Age,Patient Gender,"
        "View Position,OriginalImage[Width,Height],OriginalImagePixelSpacing[x,y]"
    )
    image = cv2.imread(str(raw / "images" / files[0]), cv2.IMREAD_UNCHANGED)
    assert image.shape == (SIZE, SIZE)
    assert image.dtype == np.uint8


def test_box_list_has_nihs_header_and_boxes_of_labelled_findings(raw):
    lines = (raw / "BBox_List_2017.csv").read_text().splitlines()
    assert lines[0] == "Image Index,Finding Label,Bbox [x,y,w,h],,,"
    labels = {row["Image Index"]: row["Finding Labels"].split("|") for row in table(raw)}
    boxed = set()
    for line in lines[1:]:
        name, finding, *box = line.split(",")
        x, y, w, h = map(int, box)
        assert w > 0 and h > 0 and x >= 0 and y >= 0 and x + w <= SIZE and y + h <= SIZE
        finding = {"Infiltrate": "Infiltration"}.get(finding, finding)
        assert finding in labels[name]
        boxed.add((name, finding))
    present = sum(len(set(names) & set(FINDINGS)) for names in labels.values())
    assert len(boxed) > 0.95 * present
    assert "Infiltration" not in {line.split(",")[1] for line in lines}


def test_lists_part_the_patients_and_keep_rare_findings_in_both(raw):
    train, test = (
        (raw / name).read_text().split() for name in ("train_val_list.txt", "test_list.txt")
    )
    assert sorted(train + test) == [row["Image Index"] for row in table(raw)]
    assert not {name[:8] for name in train} & {name[:8] for name in test}
    people = list(cohort.patients(0, 1200))
    tested = cohort.in_test(people)
    assert np.mean(tested) == pytest.approx(0.23, abs=0.01)
    for wanted in (True, False):
        held = [p for p, chosen in zip(people, tested, strict=True) if chosen == wanted]
        assert {f for p in held for film in p.films for f in film.findings} == set(FINDINGS)


def test_marker_says_synthetic(raw):
    marker = json.loads((raw / "phantoms.json").read_text())
    assert marker["provenance"] == "phantoms (synthetic)"
    assert marker["box_size"] == SIZE
    assert marker["patients"] == 60
    assert marker["images"] == len(table(raw))


def test_neither_workers_nor_the_number_of_patients_change_a_film(raw, tmp_path):
    phantoms.generate(tmp_path / "few", 12, SIZE, seed=3, workers=1)
    for name, data in contents(tmp_path / "few" / "images").items():
        assert data == (raw / "images" / name).read_bytes()
    fewer = table(tmp_path / "few")
    assert fewer == table(raw)[: len(fewer)]


def test_a_collection_tells_which_phantom_a_name_means(raw, tmp_path):
    marker = json.loads((raw / "phantoms.json").read_text())
    for number, (patients, seed, prevalence) in enumerate(
        [(12, 3, "floor"), (10, 4, "floor"), (12, 3, "real")]
    ):
        folder = tmp_path / str(number)
        phantoms.generate(folder, patients, SIZE, seed, workers=1, prevalence=prevalence)
        other = json.loads((folder / "phantoms.json").read_text())
        same = [
            path.read_bytes() == (raw / "images" / path.name).read_bytes()
            for path in (folder / "images").iterdir()
            if (raw / "images" / path.name).exists()
        ]
        assert all(same) if other["collection"] == marker["collection"] else not any(same)
        assert (other["collection"] == marker["collection"]) == (number == 0)


def test_seed_and_size_change_the_pixels():
    person = cohort.patient(0, 5)
    one, _ = render(0, person, person.films[0], SIZE)
    again, _ = render(0, person, person.films[0], SIZE)
    other, _ = render(1, person, person.films[0], SIZE)
    np.testing.assert_array_equal(one, again)
    assert np.abs(one.astype(int) - other).mean() > 5
    large, _ = render(0, person, person.films[0], 2 * SIZE)
    shrunk = cv2.resize(large, (SIZE, SIZE), interpolation=cv2.INTER_AREA).astype(float)
    assert np.corrcoef(shrunk.ravel(), one.ravel())[0, 1] > 0.96


def statistics(label_sets):
    """Prevalence [14] and co-occurrence [91] of (findings, count) pairs, as shares of images."""
    single, pairs, total = Counter(), Counter(), 0
    for names, count in label_sets:
        total += count
        single.update(dict.fromkeys(names, count))
        pairs.update(dict.fromkeys(itertools.combinations(sorted(names), 2), count))
    every = list(itertools.combinations(sorted(FINDINGS), 2))
    return (
        np.array([single[name] / total for name in FINDINGS]),
        np.array([pairs[pair] / total for pair in every]),
    )


@pytest.mark.parametrize("seed", [0, 1])
def test_prevalence_and_co_occurrence_are_the_real_ones(seed):
    names, shares = cohort.label_sets("real")
    real, real_pairs = statistics(zip(names, np.diff(shares, prepend=0), strict=True))
    people = cohort.patients(seed, 1200, "real")
    films = [(film.findings, 1) for person in people for film in person.films]
    drawn, drawn_pairs = statistics(films)
    assert 3600 < len(films) < 4600
    np.testing.assert_allclose(drawn, real, atol=0.002, rtol=0.06)
    np.testing.assert_allclose(drawn_pairs, real_pairs, atol=0.003)
    frequent = real_pairs > 0.0005
    assert spearmanr(drawn_pairs[frequent], real_pairs[frequent]).statistic > 0.9


def test_floor_keeps_how_findings_occur_together():
    names, shares = cohort.label_sets("real")
    real = np.diff(shares, prepend=0)
    _, shares = cohort.label_sets("floor")
    raised = np.diff(shares, prepend=0)
    before, after = (statistics(zip(names, part, strict=True))[0] for part in (real, raised))
    assert after.min() == pytest.approx(cohort.FLOOR)
    # A finding that is frequent enough grows only with the rarer ones that it occurs with.
    frequent = before > cohort.FLOOR
    assert frequent.sum() == 8
    assert np.all(
        (after[frequent] > before[frequent]) & (after[frequent] < 1.15 * before[frequent])
    )
    # Among the films with the rarest finding, the others are as frequent as before.
    hernia = ["Hernia" in group for group in names]
    np.testing.assert_allclose(
        raised[hernia] / raised[hernia].sum(), real[hernia] / real[hernia].sum()
    )


@pytest.mark.parametrize("seed", [0, 1, 7])
def test_demo_tests_thirty_patients_with_each_finding(seed):
    command = re.search(r"phantoms\.py .* --patients (\d+)(.*)", (ROOT / "Makefile").read_text())
    assert command and "--prevalence" not in command[2] and "--seed" not in command[2]
    people = list(cohort.patients(seed, int(command[1])))
    assert 7_500 < sum(len(person.films) for person in people) < 8_700
    tested = cohort.in_test(people)
    for wanted, least in ((True, 30), (False, 100)):
        positive = Counter(
            finding
            for person, chosen in zip(people, tested, strict=True)
            if chosen == wanted
            for finding in {finding for film in person.films for finding in film.findings}
        )
        assert min(positive[finding] for finding in FINDINGS) >= least


def test_label_sets_are_those_of_the_real_table():
    source = SHARED / "Data_Entry_2017_v2020.csv.gz"
    if not source.exists():
        pytest.skip(f"{source.name} of NIH is not here")
    with gzip.open(source, "rt") as file:
        real = Counter(row["Finding Labels"] for row in csv.DictReader(file))
    with cohort.LABEL_SETS.open() as file:
        rows = list(csv.DictReader(line for line in file if not line.startswith("#")))
    assert {row["Finding Labels"]: int(row["Images"]) for row in rows} == real


@pytest.mark.parametrize("seed", range(6))
def test_every_finding_occurs_among_the_first_hundred_patients(seed):
    people = cohort.patients(seed, 100)
    assert {f for p in people for film in p.films for f in film.findings} == set(FINDINGS)


def with_and_without(finding, number, size=128):
    """The same chest with one finding and without, and the finding's boxes."""
    person = cohort.patient(9, number)
    first = person.films[0]
    sick, found = render(
        9, person, Film(0, (finding,), first.age, first.portable), size, label_noise=False
    )
    well, none = render(9, person, Film(0, (), first.age, first.portable), size, label_noise=False)
    assert none == []
    return sick.astype(float), well.astype(float), found[0][1]


@pytest.mark.parametrize("finding", FINDINGS)
def test_what_a_finding_changes_lies_in_its_box(finding):
    inside = total = 0.0
    for number in range(1, 9):
        sick, well, boxes = with_and_without(finding, number)
        change = np.abs(sick - well)
        change[change < 2] = 0  # rounding, and noise that is stronger where more gets through
        covered = np.zeros(change.shape, bool)
        for x0, y0, x1, y1 in boxes:
            assert 0 <= x0 < x1 <= 128 and 0 <= y0 < y1 <= 128
            covered[max(y0 - 1, 0) : y1 + 1, max(x0 - 1, 0) : x1 + 1] = True
        inside += change[covered].sum()
        total += change.sum()
    assert total > 0
    assert inside / total > 0.85


def test_nodules_are_small_and_the_heart_is_not():
    nodules, hearts, masses = (
        np.concatenate(
            [
                np.prod(boxes[:, 2:] - boxes[:, :2], axis=1) / 128**2
                for _, _, boxes in (with_and_without(finding, n) for n in range(1, 9))
            ]
        )
        for finding in ("Nodule", "Cardiomegaly", "Mass")
    )
    assert nodules.max() < 0.01
    assert nodules.max() < np.median(masses) < np.median(hearts)
    assert np.median(hearts) > 0.08


def test_cardiomegaly_widens_the_heart_beyond_half_the_thorax():
    def ratio(body):
        heart = anatomy.heart(body)
        chest = [anatomy.lung(body, side)[:, 0] for side in anatomy.SIDES]
        return np.ptp(heart[:, 0]) / (chest[1].max() - chest[0].min())

    rng = np.random.default_rng(0)
    for _ in range(30):
        body = anatomy.draw_body(rng, 50, female=bool(rng.integers(2)))
        large = lesions.reshape("Cardiomegaly", body, rng, lesions.severity(rng))
        assert ratio(body) < 0.56
        assert ratio(large) > max(0.5, ratio(body) + 0.04)


def test_an_interrupted_run_is_completed_by_the_same_command(raw, tmp_path, monkeypatch):
    folder = tmp_path / "raw"
    draw, calls = phantoms._draw, itertools.count()

    def draw_once(*task):
        if next(calls):
            (folder / "images" / "00000059_000.png").write_bytes(b"half a file")
            raise KeyboardInterrupt
        return draw(*task)

    monkeypatch.setattr(phantoms, "_draw", draw_once)
    with pytest.raises(KeyboardInterrupt):
        phantoms.generate(folder, 60, SIZE, seed=3, workers=1)
    assert not (folder / "phantoms.json").exists()
    with pytest.raises(UserError, match="other options"):
        phantoms.generate(folder, 61, SIZE, seed=3, workers=1)
    monkeypatch.setattr(phantoms, "_draw", draw)
    assert phantoms.generate(folder, 60, SIZE, seed=3, workers=1)
    assert contents(folder) == contents(raw)


def test_a_finished_output_is_left_alone(raw):
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
def test_a_run_killed_before_its_note_is_continued(raw, tmp_path, leftover):
    (tmp_path / "unfinished").mkdir()
    (tmp_path / "images").mkdir()
    for name in leftover:
        (tmp_path / "unfinished" / name).write_text('{"a')
    (tmp_path / "images" / "mine.png").write_text("not a phantom")
    with pytest.raises(UserError, match="other files"):
        phantoms.generate(tmp_path, 60, SIZE, seed=3, workers=1)
    (tmp_path / "images" / "mine.png").unlink()
    assert phantoms.generate(tmp_path, 60, SIZE, seed=3, workers=1)
    assert contents(tmp_path) == contents(raw)


@pytest.mark.parametrize("damage", ['{"a', "[]", "", b"\xff", None])
@pytest.mark.parametrize("name", ["phantoms.json", "unfinished/options.json"])
def test_damaged_notes_are_named(tmp_path, name, damage):
    path = tmp_path / name
    path.parent.mkdir(exist_ok=True)
    if damage is None:
        path.mkdir()
    else:
        path.write_bytes(damage if isinstance(damage, bytes) else damage.encode())
    with pytest.raises(UserError, match=f"{name}: damaged; remove {tmp_path} and run again"):
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


def test_a_full_disk_is_one_line_and_the_run_continues(tmp_path):
    folder = tmp_path / "raw"
    for allowed in (10, 1000):  # bytes a file: not even the note; no image
        done = draw_in_a_process(folder, allowed)
        assert done.returncode == 2
        assert done.stderr.count("\n") == 1 and f"--out_dir {folder}: File too large" in done.stderr
        assert not (folder / "phantoms.json").exists()
    assert draw_in_a_process(folder).returncode == 0
    image = next((folder / "images").iterdir())
    whole = contents(folder)
    marker = json.loads(whole["phantoms.json"])
    (folder / "phantoms.json").unlink()
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
    assert contents(folder) == whole


def test_names_that_are_not_utf8(tmp_path):
    folder = Path(os.fsdecode(os.fsencode(tmp_path / "raw") + b"\xff"))
    done = draw_in_a_process(folder)
    assert (done.returncode, done.stderr) == (0, "")
    assert "raw\\udcff: " in done.stdout
    files = sorted((folder / "images").iterdir())
    assert len(files) == json.loads((folder / "phantoms.json").read_text())["images"]
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
    command = [sys.executable, ROOT / "data_prep" / "phantoms.py", "--size", "64"]
    cohort = [*command, "--out_dir", "raw", "--patients", "10", "--workers", "1"]
    first = subprocess.run(cohort, capture_output=True, text=True, cwd=tmp_path, check=True)
    assert "synthetic" in first.stdout
    again = subprocess.run(cohort, capture_output=True, text=True, cwd=tmp_path, check=True)
    assert "already complete" in again.stdout
    sheet = [*command, "--contact_sheet", "sheet.png"]
    subprocess.run(sheet, capture_output=True, cwd=tmp_path, check=True)
    assert cv2.imread(str(tmp_path / "sheet.png"), 0).shape[1] == 5 * 64


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
    assert not (folder / "phantoms.json").exists()


def test_drawing_does_not_import_jax():
    code = "import sys, data_prep.phantoms; sys.exit('jax' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT).returncode == 0
