"""Rendering one synthetic radiograph: its pixels and the boxes of its findings."""

from __future__ import annotations

import dataclasses

import numpy as np

from data_prep.phantom import anatomy, devices, lesions
from data_prep.phantom.canvas import Array, Canvas
from data_prep.phantom.cohort import Film, Patient
from data_prep.phantom.film import draw_chest, draw_exposure, draw_pose, expose
from data_prep.phantom.lesions import FINDINGS

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

    def stream(*key: int) -> np.random.Generator:
        return np.random.default_rng([seed, person.number, *key])

    def of_film(*key: int) -> np.random.Generator:
        return stream(film.follow_up, *key)

    choice = of_film(FILM)
    pose = draw_pose(choice, film.portable)
    exposure = draw_exposure(choice, film.portable)
    inspiration = float(choice.normal(-0.028 if film.portable else 0.0, 0.012))
    body = anatomy.draw_body(stream(BODY), film.age, person.female)
    body = dataclasses.replace(
        body,
        dome=body.dome + inspiration,
        cardiothoracic=body.cardiothoracic * (1.05 if film.portable else 1.0),
    )
    severities = {
        name: lesions.severity(of_film(LESION, i, 0))
        for i, name in enumerate(FINDINGS)
        if name in film.findings
    }
    hidden = ""
    if label_noise:
        whim = of_film(LESION)
        for name in severities:
            severities[name] *= 0.1 if whim.random() < OVERCALLED else 1.0
        missed = str(whim.choice(OFTEN_OVERLOOKED))
        if whim.random() < OVERLOOKED and missed not in severities:
            hidden = missed
            severities[missed] = 0.35

    def where(name: str) -> np.random.Generator:
        return stream(BODY, LESION, FINDINGS.index(name))

    for name, severity in severities.items():
        body = lesions.deform(name, body, where(name), severity)
    canvas = Canvas(size, pose)
    scene = draw_chest(canvas, body, stream(DETAILS))
    lesions.add_incidental_findings(scene, stream(INCIDENTAL))
    found = []
    for name, severity in severities.items():
        rng = of_film(LESION, FINDINGS.index(name), 1)
        boxes = lesions.paint(name, scene, where(name), rng, severity)
        if name != hidden:
            found.append((name, boxes))
    devices.add_devices(scene, of_film(DEVICES), film.portable)
    noise = of_film(NOISE)
    return devices.add_marker_and_borders(expose(scene, exposure, noise), noise), found
