"""A run of two processes that was not interrupted, to compare others with."""

import pytest

from tests.pods.interrupted import training


@pytest.fixture(scope="session")
def runs(tmp_path_factory):
    """A folder of workdirs, that compiled programs may be shared."""
    return tmp_path_factory.mktemp("pods")


@pytest.fixture(scope="session")
def uninterrupted(data_dir, runs):
    """The workdir of such a run."""
    workdir = runs / "uninterrupted"
    with training(data_dir, workdir) as run:
        run.succeed()
    return workdir
