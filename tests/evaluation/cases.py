"""A small evaluation with everything that a report can show."""

import numpy as np
from scipy.special import expit

from agcnn_jax.evaluation.figures.panels import Answer, Films
from agcnn_jax.evaluation.scoring.cohort import describe_cohort
from agcnn_jax.evaluation.scoring.measures import measure
from agcnn_jax.evaluation.scoring.references import PAPER_SETTING
from agcnn_jax.evaluation.scoring.scored import ScoredImages, branch_aucs
from agcnn_jax.evaluation.scoring.validation import fit_calibration
from agcnn_jax.run.lineage import Overlap

LABELS = ("Mass", "Pleural_Thickening", "Hernia")


def draw(seed=0, branches=("global", "fusion")):
    """240 images of 120 patients; nobody has Hernia."""
    generator = np.random.default_rng(seed)
    patients = np.repeat(np.arange(120), 2)
    labels = np.stack([patients % 3 == 0, patients % 5 == 0, patients < 0], axis=1).astype(np.uint8)
    logits = {branch: generator.normal(1.5 * labels - 1, 1.2) for branch in branches}
    return ScoredImages(
        image_ids=[f"{seed}_{i:03}.png" for i in range(240)],
        patient_ids=patients,
        labels=LABELS,
        findings=LABELS,
        label_matrix=labels,
        probabilities={branch: expit(values) for branch, values in logits.items()},
        logits=logits,
        groups={"sex": np.where(patients < 60, "F", "M")},
    )


def evaluated(scored, **changes):
    """The results, the measures and the cohort of scored images."""
    facts = {
        "split": "test",
        "protocol": "random",
        "backbone": "resnet50",
        "provenance": "ChestX-ray14",
        "collection": "ChestX-ray14",
        "synthetic": False,
        "overlap": Overlap(0, 0, True),
        "setting": PAPER_SETTING,
        **changes,
    }
    cohort = describe_cohort(scored.label_matrix, scored.labels, scored.patient_ids, **facts)
    results = branch_aucs(scored)
    chosen = fit_calibration(draw(1, tuple(scored.probabilities)))
    return results, measure(scored, chosen), cohort


def make_films(count=2, size=16, true_boxes=None):
    images = np.zeros((count, size, size), np.uint8)
    answers = [[Answer(f"F{i}", 1 - i / 12, i in (1, 11)) for i in range(12)]] * count
    return Films(
        images=images,
        heat_maps=images / 255,
        masks=images > 0,
        boxes=np.tile([2, 4, 10, 8], (count, 1)).astype(np.int32),
        crops=images,
        kinds=["catches" if i % 2 == 0 else "misses" for i in range(count)],
        titles=[f"{i}.png" for i in range(count)],
        answers=answers,
        branch="fusion",
        true_boxes=true_boxes,
    )
