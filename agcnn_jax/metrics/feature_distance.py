"""Mahalanobis distance of an image's pooled features from those of validation images."""

from __future__ import annotations

import dataclasses

import numpy as np

COMPONENTS = 64
"""Principal components whose variances are known one by one; the others share one."""
PERCENTILE = 99.0
FEW_IMAGES = 20
"""Fewer images say too little about how features spread."""
_FOLDS = 5


@dataclasses.dataclass(frozen=True, eq=False)
class FeatureStatistics:
    """The normal distribution of features by probabilistic principal component analysis.

    Attributes:
        mean: float32 `[K]`.
        components: orthonormal rows, float32 `[d, K]`.
        variances: along the components, float32 `[d]`.
        noise: variance in every other direction.
        threshold: the distance that 99 % of images of other patients do not exceed.
    """

    mean: np.ndarray
    components: np.ndarray
    variances: np.ndarray
    noise: float
    threshold: float

    def __eq__(self, other: object) -> bool:
        """Compare the numbers; a dataclass's own comparison fails on arrays."""
        return isinstance(other, FeatureStatistics) and all(
            np.array_equal(value, getattr(other, name)) for name, value in vars(self).items()
        )


def fit_features(features: np.ndarray, patients: np.ndarray) -> FeatureStatistics | None:
    """Fit the distribution, and the threshold by cross-validation over patients.

    Images that the distribution was fitted to are nearer to it than others, the more so the fewer
    they are. The threshold is therefore the percentile of distances from distributions that were
    fitted without the image's patient.

    Args:
        features: `[N, K]`.
        patients: `[N]`, the patient of each image.

    Returns:
        The statistics; None for fewer than `FEW_IMAGES` images, for one patient, and for features
        that do not vary.
    """
    # Imported here, since whoever only measures distances would wait for it.
    from sklearn.model_selection import GroupKFold

    features = np.asarray(features, np.float64)
    count = len(np.unique(patients))
    if len(features) < FEW_IMAGES or count < 2 or not features.std(axis=0).any():
        return None
    distances = np.empty(len(features))
    for rest, held_out in GroupKFold(min(_FOLDS, count)).split(features, groups=patients):
        distances[held_out] = feature_distances(_fit(features[rest]), features[held_out])
    threshold = float(np.percentile(distances, PERCENTILE))
    return dataclasses.replace(_fit(features), threshold=threshold)


def feature_distances(statistics: FeatureStatistics, features: np.ndarray) -> np.ndarray:
    """Compute the Mahalanobis distance of features `[N, K]`: float64 `[N]`.

    The covariance is that of probabilistic principal component analysis (Tipping and Bishop 1999):
    `components.T @ diag(variances - noise) @ components + noise * identity`.
    """
    centred = np.asarray(features, np.float64) - statistics.mean
    along = centred @ statistics.components.T.astype(np.float64)
    rest = np.maximum((centred**2).sum(axis=1) - (along**2).sum(axis=1), 0)
    return np.sqrt((along**2 / statistics.variances).sum(axis=1) + rest / statistics.noise)


def _fit(features: np.ndarray) -> FeatureStatistics:
    from sklearn.decomposition import PCA

    images, size = features.shape
    components = max(1, min(COMPONENTS, images // 2, size - 1))
    # Faster than a decomposition of the features where images outnumber them, as they mostly do.
    analysis = PCA(components, svd_solver="covariance_eigh").fit(features)
    # ReLUs leave directions without any variance, in which float32 still has rounding.
    floor = 1e-6 * float(analysis.explained_variance_[0])
    return FeatureStatistics(
        mean=analysis.mean_.astype(np.float32),
        components=analysis.components_.astype(np.float32),
        variances=np.maximum(analysis.explained_variance_, floor).astype(np.float32),
        noise=max(float(analysis.noise_variance_), floor),
        threshold=np.inf,
    )
