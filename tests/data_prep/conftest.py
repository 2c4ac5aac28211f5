"""A cohort of phantoms that several files of tests read."""

import pytest

from agcnn_jax.data_prep import phantoms
from tests.data_prep.phantom_files import SIZE


@pytest.fixture(scope="session")
def raw(tmp_path_factory):
    """A small complete cohort, drawn by two processes."""
    folder = tmp_path_factory.mktemp("phantoms") / "raw"
    assert phantoms.generate(folder, 60, SIZE, seed=3, workers=2)
    return folder
