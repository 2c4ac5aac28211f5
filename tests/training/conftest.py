"""A prepared store of phantoms small enough to train on in seconds."""

import pytest

from tests.programs import run


@pytest.fixture(scope="session")
def data_dir(tmp_path_factory):
    """A folder with a prepared dataset of some 130 phantoms of 64x64 pixels."""
    folder = tmp_path_factory.mktemp("phantoms")
    run("data_prep/phantoms.py", "--out_dir", folder / "raw", "--patients", 40, "--size", 64)
    run(
        "data_prep/chestxray14.py",
        "--raw_dir",
        folder / "raw",
        "--data_dir",
        folder / "data",
        "--image_size",
        64,
    )
    return folder / "data"
