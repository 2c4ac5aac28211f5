"""The result of a finished run as a small JSON file, from which all tables are made."""

from __future__ import annotations

import base64
import dataclasses
import itertools
import zlib
from collections.abc import Mapping
from importlib import metadata
from typing import Any

import jax
import numpy as np

from agcnn_jax.config.keys import DEFAULTS, check_value, read_values
from agcnn_jax.config.saved import LIBRARIES
from agcnn_jax.evaluation.scoring.localisation import (
    CENTRED,
    MEAN_BOX,
    annotated_boxes,
    score_localisation,
)
from agcnn_jax.evaluation.scoring.map_boxes import ATTENDED, RANDOM
from agcnn_jax.evaluation.scoring.matches import own_labels
from agcnn_jax.evaluation.scoring.scored import (
    ScoredImages,
    branch_aucs,
    scored_images,
)
from agcnn_jax.metrics.auc import patient_influence, plain_auc, rank_scores
from agcnn_jax.metrics.influence import Variance, stack, variance_of_mean
from agcnn_jax.metrics.known_labels import known_patients
from agcnn_jax.metrics.localisation import Scores, box_areas
from agcnn_jax.metrics.seeds import SeedEstimate
from agcnn_jax.models.agcnn import BRANCHES, Variables
from agcnn_jax.run.run import Run
from agcnn_jax.runtime.devices import replicate
from agcnn_jax.runtime.errors import UserError
from agcnn_jax.training.predict_step import make_predict_step
from agcnn_jax.training.prediction import predict

SIZES = ("small", "medium", "large")
"""Thirds of the annotated boxes of a finding, by area."""

FEWEST = 10
"""Boxes of a finding in each third; findings with fewer have no AUC by size."""

DIFFERENCE = "fusion - global"

CHANCE = (RANDOM, CENTRED, MEAN_BOX)
"""Ways of pointing without looking at the image."""

MEASURE_AGAIN = "delete it, and the run is measured again"


@dataclasses.dataclass(frozen=True)
class RunResult:
    """What a finished run reached.

    Attributes:
        path: of its file.
        values: the keys of its config that the results depend on.
        content: everything, as in the file.
        estimates: by name, on the test subset: a branch, for its mean AUC; a branch and a size,
            such as `local small`; or `fusion - global` and a finding.
    """

    path: str
    values: Mapping[str, Any]
    content: Mapping[str, Any]
    estimates: Mapping[str, SeedEstimate]

    @property
    def branches(self) -> tuple[str, ...]:
        """The branches, in the paper's order."""
        return tuple(branch for branch in BRANCHES if branch in self.content["test"]["auc"])

    def auc(self, branch: str, finding: str, subset: str = "test") -> float | None:
        """Return the AUC of a finding."""
        value: float | None = self.content[subset]["auc"][branch][finding]
        return value

    def mean(self, branch: str, subset: str = "test") -> float | None:
        """Return the mean AUC over the findings that have one."""
        value: float | None = self.content[subset]["mean"][branch]
        return value


def make_result(path: str, content: Mapping[str, Any]) -> RunResult:
    """Make a result of the content of its file; `UserError` if that is damaged."""
    try:
        values = {key: check_value(key, value) for key, value in content["config"].items()}
        if read_values({**DEFAULTS, **values}) != values:
            raise ValueError("not the keys that a run reads")
        result = RunResult(path, values, content, _unpack(content["test"]))
        for branch, subset in itertools.product(BRANCHES, ("test", "validation")):
            for finding in content["test"]["auc"]["global"]:
                float(result.auc(branch, finding, subset) or 0)
            float(result.mean(branch, subset) or 0)
        data, _ = content["data"], content["weights"]["global"]
        data["protocol"], data["provenance"], data["synthetic"], dict(content["attention"])
        content["init"], content["test"]["images"], content["validation"]["images"]
    except (UserError, KeyError, TypeError, AttributeError, ValueError, zlib.error):
        raise UserError(f"{path} is damaged or of another version; {MEASURE_AGAIN}") from None
    return result


def _unpack(test: Mapping[str, Any]) -> dict[str, SeedEstimate]:
    """Read the estimates that `_estimates` wrote."""
    stored, count = test["estimates"], test["patients"]
    packed = zlib.decompress(base64.b64decode(stored["contributions"]))
    matrix = np.frombuffer(packed, np.float16).reshape(len(stored["rows"]), count)
    if not np.isfinite([*stored["values"], *stored["borrowed"]]).all():
        raise ValueError("not finite")
    names = ("rows", "values", "degrees", "borrowed")
    columns = zip(*(stored[name] for name in names), matrix, strict=True)
    return {
        row: SeedEstimate(
            float(value), Variance(each.astype(np.float64) / count, float(lent), degrees)
        )
        for row, value, degrees, lent, each in columns
    }


def measure_run(run: Run, variables: Variables, seconds: Any) -> dict[str, Any]:
    """Predict validation and test with a run's weights, and return the content of its file.

    All processes predict; what they return is the same.
    """
    branches = tuple(branch for branch in BRANCHES if branch in variables["params"])
    step = make_predict_step(run.recipe, run.mesh, branches)
    placed = replicate(run.mesh, variables)
    content: dict[str, Any] = {
        "versions": {name: metadata.version(name) for name in LIBRARIES},
        "device": jax.devices()[0].device_kind,
        "devices": run.mesh.size,
        "seconds": seconds,
    }
    for subset in ("validation", "test"):
        indices = getattr(run.split, subset)
        made = predict(step, placed, run, indices, subset)
        scored = scored_images(run, own_labels(run.records.labels), indices, made)
        content[subset] = _scores(scored)
        if subset == "test":
            content[subset] |= _estimates(scored, _box_areas(run, indices))
            content["attention"] = _attention(run, variables, indices)
    return content


def _scores(scored: ScoredImages) -> dict[str, Any]:
    patients = np.unique(np.asarray(scored.patient_ids))
    table = branch_aucs(scored)
    return {
        "images": len(scored.image_ids),
        "patients": len(patients),
        "auc": {b: {f: one.auc[f] for f in scored.findings} for b, one in table.items()},
        "mean": {branch: one.mean.value for branch, one in table.items()},
    }


def _estimates(scored: ScoredImages, areas: Mapping[str, np.ndarray]) -> dict[str, Any]:
    """Return the estimates that tables compare, with every patient's contribution.

    These are float16, times the number of patients, compressed: sums of them need no more digits.
    """
    _, patient = np.unique(np.asarray(scored.patient_ids), return_inverse=True)
    count = int(patient.max()) + 1
    per_branch = {}
    for branch, matrix in scored.ranked.items():
        truth = {f: scored.label_matrix[:, scored.labels.index(f)] for f in scored.findings}
        scores = {f: matrix[:, scored.labels.index(f)] for f in scored.findings}
        per_branch[branch] = _of_branch(truth, scores, areas, patient, count)
    estimates: dict[str, SeedEstimate] = {}
    for branch, rows in per_branch.items():
        for name, parts in rows.items():
            if name in ("", *SIZES) and parts:
                estimates[f"{branch} {name}".strip()] = _mean_estimate(parts)
    for finding in scored.findings:
        pair = [per_branch.get(branch, {}).get(finding) for branch in ("fusion", "global")]
        if all(pair):
            one, other = (_mean_estimate(parts) for parts in pair if parts)
            estimates[f"{DIFFERENCE} {finding}"] = one.minus(other)
    variances = [one.variance for one in estimates.values()]
    packed = np.array([one.contributions * count for one in variances], np.float16)
    text = base64.b64encode(zlib.compress(packed.reshape(-1, count).tobytes(), 9))
    return {
        "estimates": {
            "rows": list(estimates),
            "values": [one.value for one in estimates.values()],
            "degrees": [one.degrees for one in variances],
            "borrowed": [one.borrowed for one in variances],
            "contributions": text.decode(),
        }
    }


_Parts = list[tuple[float, Any]]
"""AUCs to average, each with its `Influence`."""


def _of_branch(
    truth: Mapping[str, np.ndarray],
    scores: Mapping[str, np.ndarray],
    areas: Mapping[str, np.ndarray],
    patient: np.ndarray,
    count: int,
) -> dict[str, _Parts]:
    """Return the AUCs of each finding, of all findings (""), and of all findings by size."""
    rows: dict[str, _Parts] = {"": [], **{size: [] for size in SIZES}}
    for finding, labels in truth.items():
        ranks = rank_scores(labels, scores[finding])
        if (value := plain_auc(ranks)) is None:
            continue
        known = known_patients(labels, patient, count)
        rows[finding] = [(value, patient_influence(ranks, patient, known))]
        rows[""] += rows[finding]
        for size, third in _thirds(areas.get(finding)).items():
            kept = (labels == 0) | third
            ranks = rank_scores(labels[kept], scores[finding][kept])
            if (value := plain_auc(ranks)) is not None:
                rows[size].append((value, patient_influence(ranks, patient[kept], known)))
    return rows


def _mean_estimate(parts: _Parts) -> SeedEstimate:
    influence = stack([one for _, one in parts])
    value = float(np.mean([value for value, _ in parts]))
    return SeedEstimate(value, variance_of_mean(influence))


def _thirds(areas: np.ndarray | None) -> dict[str, np.ndarray]:
    """Divide the images `[N]` with boxes, of areas that are else NaN, into thirds by area."""
    if areas is None or (known := np.flatnonzero(~np.isnan(areas))).size < len(SIZES) * FEWEST:
        return {}
    parts = np.array_split(known[np.argsort(areas[known], kind="stable")], len(SIZES))
    masks = {size: np.zeros(len(areas), bool) for size in SIZES}
    for size, part in zip(SIZES, parts, strict=True):
        masks[size][part] = True
    return masks


def _box_areas(run: Run, indices: np.ndarray) -> dict[str, np.ndarray]:
    """Return, per finding, the area of each image's largest annotated box; NaN without one."""
    places = {record: i for i, record in enumerate(indices)}
    areas = {}
    for finding, annotated in annotated_boxes(run, indices).items():
        areas[finding] = np.full(len(indices), np.nan)
        largest = np.nanmax(box_areas(annotated.boxes), axis=1)
        areas[finding][[places[record] for record in annotated.records]] = largest
    return areas


def _attention(run: Run, variables: Variables, indices: np.ndarray) -> dict[str, Any]:
    """Return how often the attended region, and chance, point into the annotated boxes."""
    if "global" not in variables["params"]:
        return {}
    columns = {label: column for column, label in enumerate(run.records.labels)}
    measured = score_localisation(run, variables, columns, indices)
    of_tau = {way: measured.scores[measured.tau][way] for way in (ATTENDED, *CHANCE)}
    return {
        "tau": measured.tau,
        "statistic": measured.statistic,
        "images": {finding: count.images for finding, count in measured.counts.items()},
        "pointing": {way: _pointing(scores) for way, scores in of_tau.items()},
        "attended minus": {way: _pointing(measured.differences[way]) for way in CHANCE},
    }


def _pointing(scores: Mapping[str, Scores]) -> dict[str, list[float | None]]:
    """Return each finding's share of hits, and its interval, to four digits."""
    return {
        finding: [None if np.isnan(x) else round(float(x), 4) for x in one.pointing]
        for finding, one in scores.items()
    }
