"""One synthetic radiograph: the patient's body, the findings, the exposure, as pixels and boxes."""

from __future__ import annotations

import dataclasses

import numpy as np

from data_prep import phantom_anatomy, phantom_extras, phantom_film, phantom_lesions
from data_prep.phantom_canvas import Array, Canvas
from data_prep.phantom_cohort import Film, Patient
from data_prep.phantom_lesions import FINDINGS

PROVENANCE = "phantoms (synthetic)"
# Streams of random numbers, so that a finding more or less leaves everything else as it was.
BODY, FILM, DETAILS, NOISE, DEVICES, CONFUSERS, LESION = range(1000, 1007)
# As in life, some reports name a finding that the film hardly shows, and some miss one.
OVERCALLED, OVERLOOKED = 0.03, 0.02
OFTEN_OVERLOOKED = ("Infiltration", "Atelectasis", "Nodule", "Pleural_Thickening", "Effusion")


def render(
    seed: int, person: Patient, film: Film, size: int, label_noise: bool = True
) -> tuple[Array, list[tuple[str, Array]]]:
    """Draw one film.

    The pixels depend on the seed, the patient, the follow-up and the size alone.

    Args:
        seed: of the cohort's random numbers, see `phantom_cohort.stream`.
        person: whose film it is.
        film: one of the patient's films, or one with other findings (for paired comparisons).
        size: pixels a side.
        label_noise: let a few findings be overcalled or overlooked.

    Returns:
        The image, uint8 [size, size], and for each finding of the label set its boxes, int [N, 4]
        as (xmin, ymin, xmax, ymax), half-open and inside the image.
    """

    def stream(*key: int) -> np.random.Generator:
        return np.random.default_rng([seed, person.number, *key])

    def of_film(*key: int) -> np.random.Generator:
        return stream(film.follow_up, *key)

    choice = of_film(FILM)
    pose = phantom_film.draw_pose(choice, film.portable)
    exposure = phantom_film.draw_exposure(choice, film.portable)
    inspiration = float(choice.normal(-0.028 if film.portable else 0.0, 0.012))
    body = phantom_anatomy.draw_body(stream(BODY), film.age, person.female)
    body = dataclasses.replace(
        body,
        dome=body.dome + inspiration,
        cardiothoracic=body.cardiothoracic * (1.05 if film.portable else 1.0),
    )
    severities = {
        name: phantom_lesions.severity(of_film(LESION, i, 0))
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
        body = phantom_lesions.reshape(name, body, where(name), severity)
    canvas = Canvas(size, pose)
    scene = phantom_film.build(canvas, body, stream(DETAILS))
    phantom_lesions.confusers(scene, stream(CONFUSERS))
    found = []
    for name, severity in severities.items():
        rng = of_film(LESION, FINDINGS.index(name), 1)
        boxes = phantom_lesions.paint(name, scene, where(name), rng, severity)
        if name != hidden:
            found.append((name, boxes))
    phantom_extras.add_devices(scene, of_film(DEVICES), film.portable)
    noise = of_film(NOISE)
    return phantom_extras.finish(phantom_film.expose(scene, exposure, noise), canvas, noise), found
