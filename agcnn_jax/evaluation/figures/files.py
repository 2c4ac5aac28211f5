"""The figures of an evaluation, drawn and encoded."""

from __future__ import annotations

from agcnn_jax.data.collection import SYNTHETIC
from agcnn_jax.evaluation.figures import curves
from agcnn_jax.evaluation.figures.localisation_figure import overlap_figure, pointing_figure
from agcnn_jax.evaluation.figures.panels import films_figure
from agcnn_jax.evaluation.figures.style import encode
from agcnn_jax.evaluation.scoring.evaluation import Evaluation

EXAMPLES = {"catches": "Best catches", "misses": "Worst misses"}
"""Figures of films, by the kind of examples. They are photographs: JPEG instead of PNG files."""


def files(evaluation: Evaluation) -> dict[str, bytes]:
    """Draw the figures; return their files by name, such as `roc.png` and, for print, `roc.pdf`."""
    scored, results, cohort = evaluation.scored, evaluation.results, evaluation.cohort
    measures, localisation, films = evaluation.measures, evaluation.localisation, evaluation.films
    figures = {
        "roc": curves.roc_figure(scored, results, cohort),
        "roc_findings": curves.roc_overview(scored, results, cohort),
        "precision_recall": curves.precision_recall_figure(scored, results, measures, cohort),
        "reliability": curves.reliability_figure(results, measures, cohort),
        "decisions": curves.decision_figure(results, measures, cohort),
    }
    if localisation is not None and localisation.counts:
        figures["localisation"] = overlap_figure(localisation, cohort)
        figures["pointing"] = pointing_figure(localisation, cohort)
    if films is not None:
        synthetic = f" — {SYNTHETIC}" if cohort.synthetic else ""
        for kind in dict.fromkeys(films.kinds):
            figures[kind] = films_figure(films.of_kind(kind), EXAMPLES[kind] + synthetic)
    pictures = {}
    for name, figure in figures.items():
        picture = "jpeg" if name in EXAMPLES else "png"
        pictures[f"{name}.{picture}"] = encode(figure, picture)
        pictures[f"{name}.pdf"] = encode(figure, "pdf")
    return pictures
