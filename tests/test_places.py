"""Data, training and evaluation where much is missing that programs are used to."""

import pytest

from tests.support.places import FOLDER, UMASK, run_there
from tests.support.programs import ROOT

SETTINGS = (f"--config={ROOT}/tests/configs/demo.py", "--config.data.dir=data")
SMALL = ("--config.input_size=56", "--config.batch_size=8")


@pytest.mark.slow
def test_figures_need_no_home(tmp_path):
    done = run_there(
        "-c",
        "from agcnn_jax.runtime import errors\n"
        "errors.run(lambda: print(__import__('matplotlib').get_cachedir()))",
        cwd=tmp_path,
    )
    assert "/matplotlib" in done.stdout
    assert not done.stderr


@pytest.mark.slow
def test_from_phantoms_to_the_table(tmp_path):
    folder = tmp_path / FOLDER
    folder.mkdir()
    outputs = []
    for program, *options in (
        ("data_prep/phantoms.py", "--out_dir=raw", "--patients=46", "--size=64"),
        ("data_prep/chestxray14.py", "--raw_dir=raw", "--data_dir=data", "--image_size=64"),
        ("train.py", *SETTINGS, *SMALL, "--workdir=Läufe/1", "--config.max_steps=2"),
        ("eval.py", *SETTINGS, *SMALL, "--workdir=Läufe/1"),
    ):
        done = run_there(ROOT / "tests/support/tiny.py", ROOT / program, *options, cwd=folder)
        assert done.returncode == 0, done.stderr
        assert "WARNING" not in done.stderr and "Error" not in done.stderr
        outputs.append(done.stdout)
    assert "SYNTHETIC IMAGES" in outputs[-1]
    public = [path for path in folder.rglob("*") if path.stat().st_mode & UMASK]
    assert not public
