import numpy as np
import pytest

from agcnn_jax.evaluation.cohort import describe_cohort, headline, leakage


def cohort(**kwargs):
    given = {
        "split": "test",
        "protocol": "official",
        "backbone": "resnet50",
        "provenance": "ChestX-ray14",
        "shared_patients": 0,
        **kwargs,
    }
    labels = np.array([[1, 0], [1, 0], [1, 1]], np.uint8)
    return describe_cohort(labels, ("Mass", "Nodule"), ["7", "7", "8"], **given)


def test_counts():
    one = cohort()
    assert (one.images, one.patients) == (3, 2)
    assert one.positives == {"Mass": 3, "Nodule": 1}
    assert one.positive_patients == {"Mass": 2, "Nodule": 1}
    assert one.rare == ("Mass", "Nodule")


@pytest.mark.parametrize(
    "provenance, synthetic", [("phantoms (synthetic)", True), ("ChestX-ray14", False)]
)
def test_phantoms_are_known_by_their_provenance(provenance, synthetic):
    assert cohort(provenance=provenance).synthetic is synthetic


def test_headline_leaves_out_what_is_not_known():
    assert headline(cohort()) == (
        "resnet50, test split of the official protocol: 3 images of 2 patients; ChestX-ray14"
    )
    unknown = cohort(split=None, protocol=None, backbone=None)
    assert headline(unknown) == "3 images of 2 patients; ChestX-ray14"


def test_leakage_is_said_either_way():
    assert leakage(cohort()) == "No patient of this split occurs in training."
    assert leakage(cohort(shared_patients=1)).startswith("1 of the 2 patients also occur")
    assert leakage(cohort(shared_patients=None)) is None
