import numpy as np
import pytest

from agcnn_jax.evaluation.scoring.cohort import describe_cohort, headline, leakage
from agcnn_jax.run.lineage import Overlap


def cohort(**kwargs):
    given = {
        "split": "test",
        "protocol": "official",
        "backbone": "resnet50",
        "provenance": "ChestX-ray14",
        "collection": "ChestX-ray14",
        "synthetic": False,
        "overlap": Overlap(0, 0, True),
        **kwargs,
    }
    labels = np.array([[1, 0], [1, 0], [1, 1]], np.uint8)
    return describe_cohort(labels, ("Mass", "Nodule"), ["7", "7", "8"], **given)


def test_counts():
    one = cohort()
    assert (one.images, one.patients) == (3, 2)
    assert one.positives == {"Mass": 3, "Nodule": 1}
    assert one.positive_patients == {"Mass": 2, "Nodule": 1}


def test_headline_leaves_out_what_is_not_known():
    assert headline(cohort()) == (
        "resnet50, test split of the official protocol: 3 images of 2 patients; ChestX-ray14"
    )
    unknown = cohort(split=None, protocol=None, backbone=None)
    assert headline(unknown) == "3 images of 2 patients; ChestX-ray14"


@pytest.mark.parametrize(
    ("overlap", "said"),
    [
        (Overlap(0, 0, True), "Images trained on: 0 of 3; patients shared with training: 0 of 2."),
        (
            Overlap(0, 1, True),
            "Images trained on: 0 of 3; patients shared with training: 1 of 2. "
            "Expect lower AUCs on patients never seen.",
        ),
        (
            Overlap(2, 1, True),
            "Images trained on: 2 of 3; patients shared with training: 1 of 2. "
            "These AUCs say little about images that were not trained on.",
        ),
        # An unknown count is never reported as 0.
        (
            Overlap(0, 0, False),
            "Images trained on: not known; patients shared with training: not known.",
        ),
        (
            Overlap(0, 1, False),
            "Images trained on: not known; patients shared with training: at least 1 of 2. "
            "Expect lower AUCs on patients never seen.",
        ),
        (None, None),
    ],
)
def test_says_how_much_was_trained_on(overlap, said):
    assert leakage(cohort(overlap=overlap)) == said
