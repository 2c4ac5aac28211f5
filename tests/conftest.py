"""What all tests share: the CPU, as several devices where a test asks for them; some data."""

import os

# Before JAX starts. Eight devices let one process check that results do not depend on their number.
os.environ.setdefault("XLA_FLAGS", "--xla_force_host_platform_device_count=8")
os.environ.setdefault("JAX_PLATFORMS", "cpu")

import pytest
from hypothesis import settings

from tests.programs import run

# Timings of a first call hold a compilation.
settings.register_profile("agcnn", deadline=None)
settings.load_profile("agcnn")


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
