"""The commands and the Python of the pages run on small data, in what looks like a clone."""

import csv
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from agcnn_jax.data_prep import phantoms
from tests.data_prep.film_files import make_films
from tests.docs.blocks import PAGES, blocks_of
from tests.support.programs import ROOT

ELSEWHERE = {"docs/own_films.md": "tests/data_prep/test_own_films.py"}
"""Pages whose commands another test runs, and checks more closely."""

FROM_NOTHING = {"docs/tutorial.md", "docs/chestxray14.md", "docs/package.md"}
"""Pages that prepare and train what their later commands use."""

LINKED = ("agcnn_jax", "data_prep", "benchmarks", "tests", "train.py", "eval.py", "Makefile")
LINKED += ("pyproject.toml", "requirements.lock")
SMALL_CONFIGS = ("demo", "resnet", "densenet")
PROGRAMS = {
    "python": "",
    "agcnn-train": f"{ROOT}/train.py",
    "agcnn-eval": f"{ROOT}/eval.py",
    **{f"agcnn-{name}": f"-m agcnn_jax.{name}" for name in ("prepare", "predict", "export")},
}
IMAGE = "data/phantoms_raw/images/00000001_000.png"


def checkout(folder):
    """Make a folder with the programs of a clone, small configs and an environment."""
    for name in LINKED:
        (folder / name).symlink_to(ROOT / name)
    shutil.copytree(ROOT / "configs", folder / "configs")
    for name in SMALL_CONFIGS:
        text = (ROOT / "tests/docs/small_config.py").read_text()
        path = f"configs/{name}.py"
        (folder / path).write_text(text.replace("configs/resnet.py", str(ROOT / path)))
    # docs/attention.py draws into its own folder.
    (folder / "docs").mkdir()
    shutil.copy(ROOT / "docs/attention.py", folder / "docs")
    programs = folder / ".venv/bin"
    programs.mkdir(parents=True)
    for name, options in PROGRAMS.items():
        small = f'exec "{sys.executable}" "{ROOT / "tests/docs/small.py"}" {options} "$@"'
        (programs / name).write_text(f"#!/bin/sh\n{small}\n")
        (programs / name).chmod(0o755)
    for name in ("made", "installed"):
        (folder / ".venv" / name).touch()
    return folder


def shell(folder, text):
    """Run lines of a page as a user does who types them one by one."""
    path = f"{folder / '.venv/bin'}:{os.environ['PATH']}"
    environment = {**os.environ, "PATH": path, "PYTHONPATH": str(ROOT), "XLA_FLAGS": ""}
    done = subprocess.run(
        ["bash", "-e"], cwd=folder, env=environment, input=text, capture_output=True, text=True,
        check=False,
    )  # fmt: skip
    assert done.returncode == 0, f"{text}\n{done.stdout[-2000:]}\n{done.stderr[-4000:]}"


def write_rows(path, rows):
    with open(path, "w", newline="") as file:
        writer = csv.DictWriter(file, rows[0].keys())
        writer.writeheader()
        writer.writerows(rows)


@pytest.fixture(scope="module")
def raw(tmp_path_factory):
    folder = tmp_path_factory.mktemp("raw")
    phantoms.generate(folder, 46, 64, seed=0, workers=1)
    return folder


@pytest.fixture(scope="module")
def trained(raw, tmp_path_factory):
    """A clone with a prepared data set, two trained runs, and files to score and to predict."""
    folder = checkout(tmp_path_factory.mktemp("trained"))
    prepare = (
        "python data_prep/chestxray14.py --raw_dir {} --data_dir data/chestxray14 --image_size=64"
    )
    shell(folder, prepare.format(raw))
    shell(folder, "python train.py --config configs/resnet.py")
    shell(folder, "python eval.py --config configs/resnet.py")
    shutil.copytree(folder / "runs/resnet", folder / "runs/demo")
    results = folder / "runs/resnet/eval/test"
    for name in ("predictions", "P", "other"):
        branch = "global" if name == "other" else "fusion"
        shutil.copy(results / f"predictions_{branch}.csv", folder / f"{name}.csv")
    with open(folder / "P.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    first = {row["Image Index"][:8] for row in rows[: len(rows) // 2]}
    write_rows(folder / "test.csv", [row for row in rows if row["Image Index"][:8] in first])
    others = [row for row in rows if row["Image Index"][:8] not in first]
    write_rows(folder / "validation.csv", others)
    shutil.copy(raw / "Data_Entry_2017_v2020.csv", folder)
    (folder / "test_list.txt").write_text("".join(f"{row['Image Index']}\n" for row in rows[::2]))
    make_films(folder, ("film.png", "a.png", "b.dcm"))
    make_films(folder / "films", ("one.png", "more/two.dcm"))
    shutil.copytree(raw / "images", folder / "other_hospital")
    shell(
        folder,
        "python data_prep/from_csv.py --images other_hospital --labels Data_Entry_2017_v2020.csv "
        '--collection "St Mary 2024" --data_dir data/mary --image_size 64',
    )
    return folder


@pytest.fixture
def clone(request, raw, tmp_path):
    """A clone for one page, with nothing but raw images or with everything of `trained`."""
    page = request.param
    if page in FROM_NOTHING:
        checkout(tmp_path)
    else:
        made = request.getfixturevalue("trained")
        shutil.copytree(made, tmp_path, symlinks=True, dirs_exist_ok=True)
        for name in PROGRAMS:
            assert (tmp_path / ".venv/bin" / name).exists()
    shutil.copytree(raw, tmp_path / "RAW")
    return page, tmp_path


def runnable(page):
    return [block for block in blocks_of(page) if block.reason is None]


def test_pages_that_run_elsewhere_do():
    for page, test in ELSEWHERE.items():
        assert page in (ROOT / test).read_text()


@pytest.mark.slow
@pytest.mark.parametrize(
    "clone",
    [page for page in PAGES if runnable(page) and page not in ELSEWHERE],
    indirect=True,
    ids=lambda page: Path(page).stem,
)
def test_it_runs(clone):
    """Each block of a page after the other; what one writes, the next reads."""
    page, folder = clone
    films = np.random.default_rng(0).integers(0, 256, (2, 64, 64)).astype(np.uint8)
    np.save(folder / "films.npy", films)
    for block in runnable(page):
        if block.language == "python":
            start = 'import numpy as np\n\nfilms = np.load("films.npy")\n'
            (folder / "snippet.py").write_text(start + block.text)
        shell(folder, "python snippet.py" if block.language else block.text)
