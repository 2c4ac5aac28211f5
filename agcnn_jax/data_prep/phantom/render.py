"""Rendering one synthetic radiograph: its pixels and the boxes of its findings."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import numpy as np

from agcnn_jax.data_prep.phantom import anatomy, devices, lesions
from agcnn_jax.data_prep.phantom.canvas import Array, Canvas
from agcnn_jax.data_prep.phantom.cohort import Film, Patient
from agcnn_jax.data_prep.phantom.film import draw_chest, draw_exposure, draw_pose, expose
from agcnn_jax.data_prep.phantom.lesions import FINDINGS

Random = np.random.Generator
PROVENANCE = "phantoms (synthetic)"
# Separate streams of random numbers, so that adding a finding changes nothing else.
BODY, FILM, DETAILS, NOISE, DEVICES, INCIDENTAL, LESION = range(1000, 1007)
# Label noise: some reports name a finding that is hardly visible, and some miss one.
OVERCALLED, OVERLOOKED = 0.03, 0.02
OFTEN_OVERLOOKED = ("Infiltration", "Atelectasis", "Nodule", "Pleural_Thickening", "Effusion")


def render(
    seed: int, person: Patient, film: Film, size: int, label_noise: bool = True
) -> tuple[Array, list[tuple[str, Array]]]:
    """Draw one film.

    The pixels depend only on the seed, the patient, the film and the size.

    Args:
        seed: from `cohort.cohort_seed`.
        person: the patient.
        film: one of the patient's films, or one with other findings for a paired comparison.
        size: side of the image in pixels.
        label_noise: overcall or overlook a few findings.

    Returns:
        The image, uint8 [size, size], and for each labelled finding its boxes, int [N, 4],
        half-open (xmin, ymin, xmax, ymax) inside the image.
    """

    def patient_rng(*key: int) -> Random:
        return np.random.default_rng([seed, person.number, *key])

    def film_rng(*key: int) -> Random:
        return patient_rng(film.follow_up, *key)

    def location_rng(finding: str) -> Random:
        return patient_rng(BODY, LESION, FINDINGS.index(finding))

    rng = film_rng(FILM)
    pose = draw_pose(rng, film.portable)
    exposure = draw_exposure(rng, film.portable)
    inspiration = float(rng.normal(-0.028 if film.portable else 0.0, 0.012))
    body = anatomy.draw_body(patient_rng(BODY), film.age, person.female)
    body = dataclasses.replace(
        body,
        dome=body.dome + inspiration,
        cardiothoracic=body.cardiothoracic * (1.05 if film.portable else 1.0),
    )
    severities, overlooked = _draw_severities(film, film_rng, label_noise)
    for name, severity in severities.items():
        body = lesions.deform(name, body, location_rng(name), severity)
    scene = draw_chest(Canvas(size, pose), body, patient_rng(DETAILS))
    lesions.add_incidental_findings(scene, patient_rng(INCIDENTAL))
    labelled = []
    for name, severity in severities.items():
        rng = film_rng(LESION, FINDINGS.index(name), 1)
        boxes = lesions.paint(name, scene, location_rng(name), rng, severity)
        if name != overlooked:
            labelled.append((name, boxes))
    devices.add_devices(scene, film_rng(DEVICES), film.portable)
    rng = film_rng(NOISE)
    return devices.add_marker_and_borders(expose(scene, exposure, rng), rng), labelled


def _draw_severities(
    film: Film, film_rng: Callable[..., Random], label_noise: bool
) -> tuple[dict[str, float], str]:
    """Return the severity of each finding on the film, and a finding that is not labelled or ""."""
    severities = {
        name: lesions.severity(film_rng(LESION, i, 0))
        for i, name in enumerate(FINDINGS)
        if name in film.findings
    }
    if not label_noise:
        return severities, ""
    rng = film_rng(LESION)
    for name in severities:
        severities[name] *= 0.1 if rng.random() < OVERCALLED else 1.0
    name = str(rng.choice(OFTEN_OVERLOOKED))
    if rng.random() < OVERLOOKED and name not in severities:
        return severities | {name: 0.35}, name
    return severities, ""
