"""An uninterrupted run of two processes, for comparison."""

import pytest

from tests.pods.interrupted import training


@pytest.fixture(scope="session")
def runs(tmp_path_factory):
    """A folder for all workdirs."""
    return tmp_path_factory.mktemp("pods")


@pytest.fixture(scope="session")
def uninterrupted(data_dir, runs):
    """The workdir of an uninterrupted run."""
    workdir = runs / "uninterrupted"
    with training(data_dir, workdir) as run:
        run.succeed()
    return workdir
