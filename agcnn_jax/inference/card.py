"""The model card of a run, in the form of the Hugging Face hub."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any

from agcnn_jax.data.coordinates import centre_box
from agcnn_jax.evaluation.report.summary import limits, versions
from agcnn_jax.evaluation.scoring.cohort import SYNTHETIC_NOTE, Cohort, leakage
from agcnn_jax.inference.formats import how_to_use
from agcnn_jax.inference.jax_model import JaxModel
from agcnn_jax.inference.model import Model
from agcnn_jax.inference.precision import PrecisionChange
from agcnn_jax.interop.trained_on import in_words
from agcnn_jax.metrics.auc_table import FEW_PATIENTS, Mean
from agcnn_jax.run.lineage import Overlap

NOT_STATED = "other"
"""The licence of weights about which their owner has said nothing."""

_TEXT = """
# {title}

{warning}An attention guided convolutional neural network (AG-CNN, \
[Guan et al. 2018](https://arxiv.org/abs/1801.09927)) with {backbone} as backbone: a global \
branch reads the whole chest radiograph, its heat map gives a region, a local branch reads that \
region, and a fusion branch reads the features of both. \
Branches: {branches}. Outputs: {labels}.

## How to use it

{use}

The centre of a film's {image_size} x {image_size} pixels, {window} x {window} of them, is the \
model's input of {input_size} x {input_size}. So x in the input is \
`(x * {window} / {input_size} + {margin}) * width / {image_size}` in the film, and y the same with \
its height. {calibration}

## Files

{files}

`SHA256SUMS` holds these digests too, and `sha256sum -c SHA256SUMS` checks them.

## What it was trained on

Data: {data[provenance]}. Split: {data[protocol]} protocol, {data[train]:,} images to train, \
{data[validation]:,} to choose checkpoints and thresholds, {data[test]:,} to test. \
The weights, with those that they started from, have seen {seen}; `lineage.json` names these \
images and their patients, as the table of labels does. {leakage}

## Results

{results}

{precision}## Intended use

Research: comparison with other methods, a start for further training, a second look at the labels \
of a data set. It is not a medical device, and no decision on a patient may rest on it.

## Limits

{limits}

## How it was trained

{settings} `config.json` holds all settings.

## Licence

The program is under Apache-2.0. {licence}

## Versions

{versions}

## Citation

Guan, Huang, Zhong, Zheng, Zheng, Yang: Diagnose like a Radiologist: Attention Guided \
Convolutional Neural Network for Thorax Disease Classification. arXiv:1801.09927, 2018.
"""


def model_card(
    model: JaxModel,
    form: str,
    files: Mapping[str, bytes],
    name: str,
    data: Mapping[str, Any],
    scores: Mapping[str, Any],
    table: str,
    licence: str,
    collection: str | None,
    precision: PrecisionChange | None,
) -> str:
    """Write a run's model card.

    Args:
        model: the run's.
        form: of `FORMATS`.
        files: of the folder, without the card.
        name: what to call it, such as the name of its workdir.
        data: the content of the run's `data.json`.
        scores: the content of `auc.json`, of these weights on the test images; empty if there is
            none.
        table: the content of `auc.md` then.
        licence: an identifier of the hub, such as `apache-2.0`; `NOT_STATED` if the owner of the
            weights has not said.
        collection: of the run's data; None if that is not known.
        precision: what bfloat16 changes, for an ONNX file; None if nobody measured it.

    Returns:
        Markdown that begins with the hub's YAML header.
    """
    cohort = _cohort(model, data, scores, collection)
    if scores:
        overlap, cautions = leakage(cohort), limits(cohort)
    else:
        overlap = (
            f"Patients of the test images who also occur in training: {data['shared_patients']:,}."
        )
        cautions = limits(cohort)[1:]  # The first is about intervals.
    owner = (
        "Who trained these weights has not stated a licence for them."
        if licence == NOT_STATED
        else f"The weights: {licence}."
    )
    margin, *_ = centre_box(model.image_size)
    text = _TEXT.format(
        title=f"AG-CNN, {model.backbone}: {name}",
        warning=f"**{SYNTHETIC_NOTE}**\n\n" if cohort.synthetic else "",
        backbone=model.backbone,
        branches=", ".join(model.branches),
        labels=", ".join(model.labels),
        use=how_to_use(model, form),
        files=_file_table(files),
        precision=f"{_precision_section(precision)}\n\n" if form == "onnx" else "",
        image_size=model.image_size,
        input_size=model.input_size,
        margin=margin,
        window=model.image_size - 2 * margin,
        calibration=_calibration(model),
        data=data,
        seen=in_words(model.lineage),
        leakage=overlap,
        results=table.strip() or "These weights have not been scored on the test images.",
        limits="\n".join(f"- {line}" for line in cautions),
        settings=_settings(model.config),
        licence=owner,
        versions="\n".join(f"- {library} {version}" for library, version in versions().items()),
    )
    return f"---\n{_header(model, name, data, scores, licence)}\n---\n{text}"


def _header(
    model: Model, name: str, data: Mapping[str, Any], scores: Mapping[str, Any], licence: str
) -> str:
    """Write the hub's metadata as YAML."""
    from huggingface_hub import EvalResult, ModelCardData

    results = []
    for branch, values in scores.get("branches", {}).items():
        if values["mean"] is None:
            continue
        low, high = values["mean_interval"] or (None, None)
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
                metric_value=round(values["mean"], 4),
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
    return card.to_yaml()


def _cohort(
    model: Model, data: Mapping[str, Any], scores: Mapping[str, Any], collection: str | None
) -> Cohort:
    """Describe the test images, as far as it is known without an evaluation."""
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
        missing=scores.get("missing_labels", {}),
        collection=collection,
    )


def _file_table(files: Mapping[str, bytes]) -> str:
    rows = [
        f"| `{name}` | {len(content):,} | `{hashlib.sha256(content).hexdigest()}` |"
        for name, content in files.items()
    ]
    return "\n".join(("| file | bytes | SHA-256 |", "| --- | --- | --- |", *rows))


def _precision_section(change: PrecisionChange | None) -> str:
    """Write what OpenVINO's bfloat16 changes, None if nobody measured it, as Markdown."""
    text = "## bfloat16\n\n`agcnn-predict --from FOLDER --precision bfloat16` computes in it, with "
    text += "OpenVINO on processors that can, and is never chosen by itself. It changes "
    text += "probabilities and boxes. "
    if change is None:
        return text + (
            "For this model nobody has measured by how much: predict the same films in both "
            "precisions, and score both tables with `agcnn-eval --predictions`."
        )
    which = "all" if change.images == change.test else "spread evenly over all"
    text += f"On {change.images:,} test images ({which} {change.test:,}):\n\n"
    titles = ("branch", "largest difference of a probability", "mean AUC in float32", "in bfloat16")
    rows = [
        f"| {branch} | {one.largest:.4f} | {_mean_auc(one.float32)} | {_mean_auc(one.bfloat16)} |"
        for branch, one in change.branches.items()
    ]
    text += "\n".join((f"| {' | '.join(titles)} |", "| --- | --- | --- | --- |", *rows))
    if change.boxes is not None:
        text += f"\n\nBoxes that differ: {change.boxes:,} of {change.images:,}."
    return text + " AUCs are means over the findings, with 95 % intervals over patients."


def _mean_auc(mean: Mean) -> str:
    if mean.value is None:
        return "none"
    interval = mean.interval
    return f"{mean.value:.3f}" + (f" ({interval[0]:.3f} to {interval[1]:.3f})" if interval else "")


def _calibration(model: Model) -> str:
    calibration = model.calibration
    if calibration is None:
        return "No thresholds were chosen, and the probabilities are not calibrated."
    return (
        f"Thresholds and calibrated probabilities come from {calibration.images:,} validation "
        f"images of {calibration.patients:,} patients; findings that fewer than {FEW_PATIENTS} of "
        f"them have, or lack, get none. They hold for films with the same prevalence. "
        f"`calibration.json` has them by branch and label: `sigmoid(slope * logit + intercept)` is "
        f"calibrated, and a logit at or above a threshold's `logit` is positive."
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
