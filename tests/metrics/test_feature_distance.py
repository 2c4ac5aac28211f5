"""Distances of features from those of validation images."""

import numpy as np
import pytest
from sklearn.decomposition import PCA

from agcnn_jax.metrics import feature_distance
from agcnn_jax.metrics.feature_distance import COMPONENTS, feature_distances, fit_features


def draw(images, size=80, seed=0):
    """Correlated features, of a scale of their own in every direction."""
    mixing = np.random.default_rng(1).normal(size=(size, size)) / np.sqrt(size)
    generator = np.random.default_rng(seed)
    return (generator.normal(size=(images, size)) @ mixing + 3).astype(np.float32)


def test_distances_are_mahalanobis_with_scikit_learns_covariance():
    features = draw(400)
    found = fit_features(features, np.arange(400))
    model = PCA(COMPONENTS, svd_solver="full").fit(features.astype(np.float64))
    others = draw(50, seed=2) * 1.5
    centred = others - model.mean_
    expected = np.sqrt(np.einsum("ni,ij,nj->n", centred, model.get_precision(), centred))
    np.testing.assert_allclose(feature_distances(found, others), expected, rtol=1e-4)


@pytest.mark.parametrize(("images", "fewest"), [(150, 0), (1000, 0.002)])
def test_one_in_a_hundred_of_new_images_is_beyond_the_threshold(images, fewest):
    """Few images make it cautious. Judged on what was fitted, a tenth of new images would be."""
    found = fit_features(draw(images), np.arange(images))
    beyond = np.mean(feature_distances(found, draw(5_000, seed=3)) > found.threshold)
    assert fewest <= beyond < 0.03
    assert np.mean(feature_distances(found, draw(500, seed=4) + 2) > found.threshold) > 0.9


def test_a_patients_images_are_held_out_together():
    """Every patient has four images that are almost the same."""
    features = np.repeat(draw(60), 4, axis=0) + 1e-3 * draw(240, seed=5)
    apart = fit_features(features, np.repeat(np.arange(60), 4))
    leaking = fit_features(features, np.arange(240))
    assert apart.threshold > 1.2 * leaking.threshold


@pytest.mark.parametrize(
    ("features", "patients"),
    [
        (draw(19), np.arange(19)),
        (draw(40), np.zeros(40)),
        (np.ones((40, 8), np.float32), np.arange(40)),
    ],
)
def test_too_little_to_know(features, patients):
    assert fit_features(features, patients) is None


def test_features_that_never_vary_do_not_matter_unless_they_change():
    features = draw(100, 30)
    features[:, 7] = 0
    found = fit_features(features, np.arange(100))
    assert np.isfinite(feature_distances(found, features)).all()
    assert (feature_distances(found, features) < found.threshold).mean() > 0.95
    features[:, 7] = 5
    assert (feature_distances(found, features) > found.threshold).all()


def test_few_features_and_few_images():
    for shape in ((30, 3), (20, 200)):
        found = fit_features(draw(*shape), np.arange(shape[0]))
        assert found.components.shape == (min(shape[0] // 2, shape[1] - 1), shape[1])
        assert 0 < found.threshold < np.inf
    assert feature_distance.FEW_IMAGES == 20
