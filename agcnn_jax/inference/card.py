"""The model card of a run, in the form of the Hugging Face hub."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from agcnn_jax.evaluation.report.summary import limits, versions
from agcnn_jax.evaluation.scoring.cohort import SYNTHETIC_NOTE, Cohort, leakage
from agcnn_jax.inference.model import Model
from agcnn_jax.interop.trained_on import in_words
from agcnn_jax.metrics.auc_table import FEW_PATIENTS
from agcnn_jax.run.lineage import Overlap

NOT_STATED = "other"
"""The licence of weights about which their owner has said nothing."""

PAPER = "https://arxiv.org/abs/1801.09927"

_TEXT = """
# {title}

{warning}An attention guided convolutional neural network (AG-CNN, [Guan et al. 2018]({paper})) \
with {backbone} as backbone: a global branch reads the whole chest radiograph, its heat map gives \
a region, a local branch reads that region, and a fusion branch reads the features of both. \
Branches: {branches}. Outputs: {labels}.

## How to use it

```python
import agcnn_jax

model = agcnn_jax.load("FOLDER")  # or hf://OWNER/NAME@REVISION
result = model.predict("film.png")
print(result.probability, result.box)
result.show().savefig("seen.png")
```

Films are resized to {image_size} x {image_size} pixels, and the centre is the model's input of \
{input_size} x {input_size}. {calibration}

`SHA256SUMS` holds the digests of all files but this one, and loading checks them.

## What it was trained on

Data: {provenance}. Split: {protocol} protocol, {train:,} images to train, {validation:,} to \
choose checkpoints and thresholds, {test:,} to test. The weights, with those that they started \
from, have seen {seen}; `lineage.json` names these images and their patients, as the table of \
labels does. {leakage}

## Results

{results}

## Intended use

Research: comparison with other methods, a start for further training, a second look at the labels \
of a data set. It is not a medical device, and no decision on a patient may rest on it.

## Limits

{limits}

## How it was trained

{settings} `config.json` holds all settings.

## Licence

{licence}

## Versions

{versions}

## Citation

Guan, Huang, Zhong, Zheng, Zheng, Yang: Diagnose like a Radiologist: Attention Guided \
Convolutional Neural Network for Thorax Disease Classification. arXiv:1801.09927, 2018.
"""


class TestScores(NamedTuple):
    """A run's evaluation on its test subset: the content of `auc.json` and of `auc.md`."""

    scores: Mapping[str, Any]
    table: str


def model_card(
    model: Model,
    name: str,
    data: Mapping[str, Any],
    evaluation: TestScores | None,
    licence: str,
) -> str:
    """Write a run's model card.

    Args:
        model: the run's.
        name: what to call it, such as the name of its workdir.
        data: the content of the run's `data.json`.
        evaluation: of these weights; None if there is none.
        licence: an identifier of the hub, such as `apache-2.0`; `NOT_STATED` if the owner of the
            weights has not said.

    Returns:
        Markdown that begins with the hub's YAML header.
    """
    cohort = _cohort(model, data, evaluation)
    cautions = limits(cohort)
    text = _TEXT.format(
        title=f"AG-CNN, {model.backbone}: {name}",
        warning=f"**{SYNTHETIC_NOTE}**\n\n" if cohort.synthetic else "",
        paper=PAPER,
        backbone=model.backbone,
        branches=", ".join(model.branches),
        labels=", ".join(model.labels),
        image_size=model.image_size,
        input_size=model.recipe.input_size,
        calibration=_calibration(model),
        provenance=data["provenance"],
        protocol=data["protocol"],
        train=data["train"],
        validation=data["validation"],
        test=data["test"],
        seen=in_words(model.lineage),
        leakage=leakage(cohort) if evaluation else _shared(data),
        results=_results(evaluation),
        # The first is about intervals.
        limits="\n".join(f"- {line}" for line in (cautions if evaluation else cautions[1:])),
        settings=_settings(model.config),
        licence=_licence(licence),
        versions="\n".join(f"- {library} {version}" for library, version in versions().items()),
    )
    return f"---\n{_header(model, name, data, evaluation, licence)}---\n{text}"


def _header(
    model: Model,
    name: str,
    data: Mapping[str, Any],
    evaluation: TestScores | None,
    licence: str,
) -> str:
    """Write the hub's metadata as YAML."""
    from huggingface_hub import EvalResult, ModelCardData

    results = []
    for branch, scores in evaluation.scores["branches"].items() if evaluation else ():
        if scores["mean"] is None:
            continue
        low, high = scores["mean_interval"] or (None, None)
        interval = "" if low is None else f", 95 % interval {low:.3f} to {high:.3f}"
        results.append(
            EvalResult(
                task_type="image-classification",
                task_name="findings of chest radiographs",
                dataset_type="chest-radiographs",
                dataset_name=f"{data['provenance']}, {data['protocol']} protocol",
                dataset_split="test",
                metric_type="roc_auc",
                metric_name=f"{branch} branch, mean AUC over the findings{interval}",
                metric_value=round(scores["mean"], 4),
            )
        )
    card = ModelCardData(
        library_name="agcnn-jax",
        license=licence,
        license_name="not-stated" if licence == NOT_STATED else None,
        pipeline_tag="image-classification",
        tags=["chest-radiographs", "ag-cnn", "jax", "flax", model.backbone, "arxiv:1801.09927"],
        model_name=name if results else None,
        eval_results=results or None,
    )
    return f"{card.to_yaml()}\n"


def _cohort(model: Model, data: Mapping[str, Any], evaluation: TestScores | None) -> Cohort:
    """Describe the test images, as far as it is known without an evaluation."""
    scores: Mapping[str, Any] = evaluation.scores if evaluation else {}
    complete = scores.get("lineage_complete", not model.lineage.unlisted)
    trained, shared = scores.get("trained_images") or 0, scores.get("shared_patients") or 0
    return Cohort(
        split="test",
        protocol=data["protocol"],
        backbone=model.backbone,
        setting=None,
        provenance=data["provenance"],
        synthetic=data["synthetic"],
        images=data["test"],
        patients=scores.get("patients", 0),
        overlap=Overlap(trained, shared, complete, scores.get("shared_patients", 0) is not None),
        positives=scores.get("positives", {}),
        positive_patients=scores.get("positive_patients", {}),
    )


def _calibration(model: Model) -> str:
    known = model.calibration
    if known is None:
        return "No thresholds were chosen, and the probabilities are not calibrated."
    return (
        f"Thresholds and calibrated probabilities come from {known.images:,} validation images of "
        f"{known.patients:,} patients; findings that fewer than {FEW_PATIENTS} of them have, or "
        f"lack, get none. They hold for films with the same prevalence."
    )


def _settings(config: Mapping[str, Any]) -> str:
    """Name what Section IV-B of the paper names; several numbers are those of each branch."""

    def numbers(key: str) -> str:
        return ", ".join(f"{value:g}" for value in config[key])

    attention = config["attention"]
    return (
        f"Strategy {config['strategy']}, seed {config['seed']}; epochs {numbers('epochs')}; batch "
        f"size {numbers('batch_size')}; learning rate {numbers('learning_rate')}; heat map "
        f"statistic {attention['statistic']}, tau {attention['tau']:g}."
    )


def _shared(data: Mapping[str, Any]) -> str:
    return f"Patients of the test images who also occur in training: {data['shared_patients']:,}."


def _results(evaluation: TestScores | None) -> str:
    if evaluation is None:
        return "These weights have not been scored on the test images."
    return evaluation.table.strip()


def _licence(licence: str) -> str:
    program = "The program is under Apache-2.0."
    if licence == NOT_STATED:
        return f"{program} Who trained these weights has not stated a licence for them."
    return f"{program} The weights: {licence}."
