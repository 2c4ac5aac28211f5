"""Setup of all tests: eight simulated CPU devices, the small backbone, and a data set."""

import os
import signal
import sys

# Set before JAX starts. With eight devices, one process can check that results do not depend on
# their number.
os.environ.setdefault("XLA_FLAGS", "--xla_force_host_platform_device_count=8")
os.environ.setdefault("JAX_PLATFORMS", "cpu")
# All tests, in all processes of one version of Python, share compiled programs.
os.environ.setdefault(
    "JAX_COMPILATION_CACHE_DIR",
    os.path.abspath(f".pytest_cache/jax/{sys.implementation.cache_tag}"),
)
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES", "-1")
# Programs would otherwise start twice.
os.environ.setdefault("GLIBC_TUNABLES", "glibc.malloc.hugetlb=1")

import jax
import pytest
from hypothesis import settings

from tests.support import tiny

tiny.use()

from agcnn_jax.data_prep import chestxray14, phantoms  # noqa: E402

# Otherwise tests that a shell runs in the background, and their programs, would ignore Ctrl-C.
signal.signal(signal.SIGINT, signal.default_int_handler)

# No deadline: a first call compiles.
settings.register_profile("agcnn", deadline=None)
settings.load_profile("agcnn")


@pytest.fixture(scope="session")
def data_dir(tmp_path_factory):
    """Prepare a dataset of about 170 phantoms of 64x64 pixels; returns its folder.

    Its path has blanks and umlauts, which all that read and train with it have to bear.
    """
    folder = tmp_path_factory.mktemp("phantoms für Prüfungen")
    raw, data = folder / "raw", folder / "data"
    phantoms.generate(raw, 46, 64, seed=0, workers=1)
    chestxray14.main(
        ["--raw_dir", str(raw), "--data_dir", str(data), "--image_size=64", "--workers=1"]
    )
    return data


@pytest.fixture(scope="module")
def quick_compilation():
    """Compile with few optimisations, for tests of what happens around the steps."""
    before = jax.config.values["jax_disable_most_optimizations"]
    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", before)
