"""Real data that may lie beside the repository, for tests that need it."""

import pytest

from tests.support.programs import ROOT

CHEST_XRAY14 = ROOT.parent / "shared" / "chestxray14"
"""A sample of ChestX-ray14's films, its tables and lists, and published predictions."""

DICOM_FILMS = ROOT.parent / "shared" / "films" / "dicom"

needs_chest_xray14 = pytest.mark.skipif(
    not CHEST_XRAY14.is_dir(), reason=f"no real films: {CHEST_XRAY14} does not exist"
)
