"""From a trained run to its tables, figures and report."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
from etils import epath

from agcnn_jax.attention.crop import crop_device
from agcnn_jax.data.augment import centre_box, centre_crop
from agcnn_jax.data.pipeline import read_batch
from agcnn_jax.errors import UserError
from agcnn_jax.evaluation.figures import Films
from agcnn_jax.evaluation.results import write_results
from agcnn_jax.models.agcnn import BRANCHES, Variables, apply_branch
from agcnn_jax.training import checkpoints, settings
from agcnn_jax.training.experiment import Experiment, open_experiment
from agcnn_jax.training.parallel import check_batch_size, replicate
from agcnn_jax.training.stage import read_result, stage_directory
from agcnn_jax.training.steps import merge_branches
from agcnn_jax.training.strategies import stages
from agcnn_jax.training.validation import Prediction, make_predict_step, predict

SUBSETS = ("train", "validation", "test")
FILMS = 8
"""Number of images that the report shows with their heat maps."""

FREE_KEYS = settings.FREE_KEYS | {"data.protocol", "data.lists", "data.split_seed"}
"""Keys that an evaluation may set otherwise than the training did: which images to score."""


def evaluate(
    config: ml_collections.ConfigDict,
    workdir: str,
    overrides: dict[str, Any],
    split: str = "test",
) -> str:
    """Score a run's best checkpoints on a subset and write `<workdir>/eval/<split>/`.

    Every branch is scored whose stage is finished. The run's own `config.json` says how it was
    trained; `config` must be the one that it came from.

    Args:
        config: the config asked for.
        workdir: of the run.
        overrides: those of the config's keys that were given on the command line.
        split: `train`, `validation` or `test`.

    Returns:
        The AUC table as text.

    Raises:
        UserError: if nothing is trained, or the run is of another config.
    """
    if split not in SUBSETS:
        raise UserError(f"--split is {split!r}; use one of {', '.join(SUBSETS)}")
    directory = epath.Path(workdir).resolve()
    run_config = read_run_config(config, directory, overrides)
    settings.check_config(run_config)
    experiment = open_experiment(run_config, directory)
    check_batch_size(experiment.mesh, run_config.eval_batch_size, "config.eval_batch_size")
    variables = trained_variables(experiment)
    branches = tuple(branch for branch in BRANCHES if branch in variables["params"])
    indices = getattr(experiment.split, split)
    records = experiment.records
    prediction = predict(
        make_predict_step(experiment.recipe, experiment.mesh, branches),
        variables,
        records.images_and_labels(),
        indices,
        run_config.eval_batch_size,
        experiment.mesh,
        split,
    )
    boxes = None
    if prediction.boxes is not None:
        boxes = to_original_pixels(
            prediction.boxes,
            run_config.input_size,
            records.image_size,
            np.stack([records.widths[indices], records.heights[indices]], axis=-1),
        )
    return write_results(
        directory / "eval" / split,
        split=split,
        protocol=experiment.split.protocol,
        backbone=run_config.backbone,
        provenance=records.provenance,
        labels=records.labels,
        findings=records.findings,
        label_matrix=records.label_matrix[indices],
        probabilities=prediction.probabilities,
        image_ids=records.image_ids[indices],
        patient_ids=records.patient_ids[indices],
        shared_patients=experiment.split.shared_patients if split == "test" else None,
        boxes=boxes,
        films=show_films(experiment, variables, indices, prediction),
        settings=run_config.to_dict(),
    )


def read_run_config(
    config: ml_collections.ConfigDict, workdir: epath.Path, overrides: dict[str, Any]
) -> ml_collections.ConfigDict:
    """Read what a run was trained with, and take over what an evaluation may choose.

    Raises:
        UserError: if nothing was trained there, or something with another backbone, or if an
            override contradicts how the run was trained.
    """
    saved = settings.read_config(workdir)
    if saved is None:
        raise UserError(
            f"nothing is trained in --workdir {workdir}; train first: python train.py --config ..."
        )
    if saved.backbone != config.backbone:
        raise UserError(
            f"--workdir {workdir} was made with another config: backbone is "
            f"{config.backbone!r}, there {saved.backbone!r}; give the config that it was made with"
        )
    asked = dict(settings.flatten(config.to_dict()))
    trained = dict(settings.flatten(saved.to_dict()))
    for key in overrides:
        if key in FREE_KEYS:
            with saved.unlocked():
                saved.update_from_flattened_dict({key: asked[key]})
        elif _plain(asked[key]) != _plain(trained.get(key)):
            raise UserError(
                f"--workdir {workdir} was made with another config: {key} is {asked[key]!r}, "
                f"there {trained.get(key)!r}; leave --config.{key} out, or evaluate another run"
            )
    return saved


def trained_variables(experiment: Experiment) -> Variables:
    """Load the branches of all finished stages, replicated; later stages win.

    Raises:
        UserError: if no stage is finished.
    """
    variables: Variables = {"params": {}, "batch_stats": {}}
    for stage in stages(experiment.config.strategy):
        if read_result(experiment.workdir, stage) is None:
            break
        directory = stage_directory(experiment.workdir, stage) / "checkpoints"
        with checkpoints.open_manager(directory) as manager:
            best = checkpoints.restore_best(manager, experiment.identity)
        variables = merge_branches(variables, best["variables"])
    if not variables["params"]:
        raise UserError(
            f"no stage is finished in --workdir {experiment.workdir}; run the same python "
            f"train.py command again to go on"
        )
    # Orbax leaves out branches without statistics.
    for branch in variables["params"]:
        variables["batch_stats"].setdefault(branch, {})
    return replicate(experiment.mesh, variables)


def to_original_pixels(
    boxes: np.ndarray, input_size: int, stored_size: int, sizes: np.ndarray
) -> np.ndarray:
    """Map boxes from the model's input to the file that the image was read from.

    The input is the centre crop of the stored image, which is the whole file resized. Boxes grow
    to whole pixels and stay inside the file.

    Args:
        boxes: `[N, 4]` half-open pixels of the input.
        input_size: side of the input in pixels.
        stored_size: side of the stored images in pixels.
        sizes: `[N, 2]`, each file's width and height in pixels.

    Returns:
        int32 `[N, 4]`.
    """
    left, top, right, _ = centre_box(stored_size)
    stored = boxes * ((right - left) / input_size) + np.array([left, top, left, top])
    scale = np.tile(sizes / stored_size, (1, 2))
    low = np.floor(stored[:, :2] * scale[:, :2] + 1e-6)
    high = np.ceil(stored[:, 2:] * scale[:, 2:] - 1e-6)
    return np.concatenate([np.maximum(low, 0), np.minimum(high, sizes)], axis=1).astype(np.int32)


def show_films(
    experiment: Experiment, variables: Variables, indices: np.ndarray, prediction: Prediction
) -> Films | None:
    """Pick images with findings for the report, with what the model attended to.

    One image a finding, in the findings' order: the one that the last branch is surest of.
    """
    if prediction.boxes is None:
        return None
    records, recipe = experiment.records, experiment.recipe
    branch, scores = list(prediction.probabilities.items())[-1]
    labels = records.label_matrix[indices]
    rows: list[int] = []
    names: list[str] = []
    for column in records.finding_columns:
        candidates = np.flatnonzero(labels[:, column])
        candidates = candidates[~np.isin(candidates, rows)]
        if len(candidates) and len(rows) < FILMS:
            rows.append(int(candidates[np.argmax(scores[candidates, column])]))
            names.append(records.labels[column])
    if not rows:
        return None
    chosen = indices[rows]
    batch = read_batch(records.images_and_labels(), chosen)

    @jax.jit
    def attend(variables: Variables, images: jax.Array) -> tuple[jax.Array, ...]:
        inputs = centre_crop(images, recipe.input_size)
        output, _ = apply_branch(recipe.model, variables, "global", inputs, train=False)
        crops, boxes, heat = crop_device(inputs, output.feature_map, recipe.statistic, recipe.tau)
        return jnp.round(inputs), jnp.round(crops), boxes, heat

    inputs, crops, boxes, heat = jax.device_get(attend(variables, batch["image"]))
    columns = [records.labels.index(name) for name in names]
    titles = [
        f"{image_id}\n{name}: {branch} {score:.2f}"
        for image_id, name, score in zip(
            records.image_ids[chosen], names, scores[rows, columns], strict=True
        )
    ]
    return Films(
        images=inputs.astype(np.uint8),
        heat_maps=heat,
        boxes=boxes,
        crops=crops.astype(np.uint8),
        titles=titles,
        true_boxes=[_true_boxes(experiment, int(record)) for record in chosen],
    )


def _true_boxes(
    experiment: Experiment, record: int
) -> list[tuple[str, tuple[float, float, float, float]]]:
    """An image's annotated boxes in pixels of the model's input."""
    records = experiment.records
    left, top, right, _ = centre_box(records.image_size)
    scale = experiment.recipe.input_size / (right - left)
    sides = np.array([records.widths[record], records.heights[record]] * 2)
    boxes = []
    for index in np.flatnonzero(records.boxes.records == record):
        stored = records.boxes.corners[index] / sides * records.image_size
        xmin, ymin, xmax, ymax = ((stored - [left, top, left, top]) * scale).tolist()
        boxes.append((str(records.boxes.findings[index]), (xmin, ymin, xmax, ymax)))
    return boxes


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple | list) else value
