"""What all tests share: the CPU, as several devices where a test asks for them; some data."""

import os
import signal

# Before JAX starts. Eight devices let one process check that results do not depend on their number.
os.environ.setdefault("XLA_FLAGS", "--xla_force_host_platform_device_count=8")
os.environ.setdefault("JAX_PLATFORMS", "cpu")
# What one test has compiled, no other compiles again, whatever process it is in.
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", os.path.abspath(".pytest_cache/jax"))
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES", "-1")

import jax
import pytest
from hypothesis import settings

from tests import tiny

tiny.use()

from data_prep import chestxray14, phantoms  # noqa: E402

# A shell that starts the tests in the background has them, and so their programs, ignore Ctrl-C.
signal.signal(signal.SIGINT, signal.default_int_handler)

# Timings of a first call hold a compilation.
settings.register_profile("agcnn", deadline=None)
settings.load_profile("agcnn")


@pytest.fixture(scope="session")
def data_dir(tmp_path_factory):
    """A folder with a prepared dataset of some 170 phantoms of 64x64 pixels."""
    folder = tmp_path_factory.mktemp("phantoms")
    raw, data = folder / "raw", folder / "data"
    phantoms.generate(raw, 46, 64, seed=0, workers=1)
    chestxray14.main(
        ["--raw_dir", str(raw), "--data_dir", str(data), "--image_size=64", "--workers=1"]
    )
    return data


@pytest.fixture(scope="module")
def quick_compilation():
    """XLA leaves out most optimisations, for tests of what happens around the steps."""
    before = jax.config.values["jax_disable_most_optimizations"]
    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", before)
