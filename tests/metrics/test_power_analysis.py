import numpy as np
import pytest

from agcnn_jax.metrics.auc_table import auc_table
from agcnn_jax.metrics.power_analysis import expected_interval, table


@pytest.mark.parametrize(("positives", "auc"), [(20, 0.8), (100, 0.9)])
def test_the_width_is_that_of_simulated_cohorts(positives, auc):
    """Exponential scores, of which positives are larger by a factor."""
    generator = np.random.default_rng(0)
    labels = np.repeat([1, 0], [positives, 10 * positives])[:, None]
    widths = []
    for _ in range(60):
        scores = generator.exponential(np.where(labels, auc / (1 - auc), 1.0))
        found = auc_table(
            labels, {"": scores}, labels="f", findings="f", patient_ids=np.arange(len(labels))
        )
        widths.append(np.ptp(found[""].intervals["f"]))
    expected = np.ptp(expected_interval(auc, positives, 10 * positives))
    assert np.mean(widths) == pytest.approx(expected, rel=0.06)


def test_more_patients_and_higher_aucs_have_narrower_intervals():
    rows = [row.split("|")[1:-1] for row in table().splitlines()[4:]]
    widths = np.array([[float(cell) for cell in row[1:]] for row in rows])
    assert (np.diff(widths, axis=0) < 0).all()
    assert (np.diff(widths, axis=1) < 0).all()
