"""The deliberate faults fit the code as it is; `make mutants` would say so late."""

from pathlib import Path

import pytest

from tests.mutation.faults import FAULTS

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.name)
def test_a_fault_fits_the_code(fault):
    assert (ROOT / fault.file).read_text("utf-8").count(fault.sound) == 1
    assert fault.faulty != fault.sound
    assert all((ROOT / test.partition("::")[0]).exists() for test in fault.tests)
