"""The start of a run: recorded when it first starts, and compared whenever it resumes."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import jax
import jax.numpy as jnp

from agcnn_jax.config.saved import check_unchanged, read_config, write_config
from agcnn_jax.config.strategies import branches_before, stages
from agcnn_jax.interop import hub, weights
from agcnn_jax.models.agcnn import BRANCHES, Variables, init_variables
from agcnn_jax.run import lineage
from agcnn_jax.run.checkpoints import StageCheckpoints
from agcnn_jax.run.lineage import Lineage, Overlap
from agcnn_jax.run.run import Run
from agcnn_jax.run.stage_results import has_started
from agcnn_jax.runtime.errors import UserError
from agcnn_jax.runtime.processes import from_primary, sync_call
from agcnn_jax.runtime.storage import absolute, exists, reported, write_bytes

Backbones = dict[str, dict[str, Any]]
"""`{"params": ..., "batch_stats": ...}` for the global and the local branch, or for neither."""

_WITH_BACKBONE = ("global", "local")

_draw = jax.jit(init_variables, static_argnums=(0, 2))


@dataclasses.dataclass(frozen=True)
class Start:
    """What a run starts from."""

    # Of all branches; backbones are random if no stage has yet to start from those in config.init.
    variables: Variables
    init: str | None  # digest of the weights in config.init; None if that is random
    lineage: Lineage  # what everything that the run trains will have seen
    tested: Overlap  # how much of the test subset that is


def needs_init(run: Run) -> bool:
    """Tell whether a stage has yet to start from the backbones in `config.init`."""
    strategy = run.config.strategy
    return any(
        set(_WITH_BACKBONE) & set(stage.branches) - set(branches_before(strategy, stage))
        and not has_started(run.workdir, stage)
        for stage in stages(strategy)
    )


def open_start(run: Run, begun: bool) -> Start:
    """Read what a run starts from, or if no stage has yet to start from it, what is recorded.

    `begun` says that the workdir has a config. All processes call this. Where `needs_init` is
    false, `config.init` need no longer exist. `UserError` if it holds no weights, weights that do
    not fit, or weights that were trained on images of the test subset; or if the workdir holds
    stages without a config.
    """
    needed = from_primary(lambda: needs_init(run))
    return sync_call(lambda: _read_start(run, begun, needed))


def _read_start(run: Run, begun: bool, needed: bool) -> Start:
    config, workdir, split, records = run.config, run.workdir, run.split, run.records
    backbones, inherited = read_init(run) if needed or not begun else ({}, lineage.NOTHING)
    digest = lineage.digest(backbones) if backbones else None
    if begun:
        seen, started_from = lineage.read(workdir)
        digest = digest or started_from
    elif any(has_started(workdir, stage) for stage in stages(config.strategy)):
        raise UserError(
            f"--workdir {workdir} holds trained stages without the config.json that says how; put "
            f"that back, or choose another --workdir"
        )
    else:
        images, patients = records.image_ids[split.train], records.patient_ids[split.train]
        seen = lineage.lineage_of(
            records.collection, images, patients, synthetic=records.synthetic
        ).joined(inherited)
    images, patients = records.image_ids[split.test], records.patient_ids[split.test]
    tested = seen.overlap(records.collection, images, patients, synthetic=records.synthetic)
    if tested.images:
        raise _refused(
            run,
            f"which was trained on {tested.images} of the {len(split.test)} images of the test "
            f"subset; start from other weights, or test on other images, with "
            f"config.data.protocol and its split_seed or lists",
        )
    return Start(initial_variables(run, backbones), digest, seen, tested)


def keep_start(run: Run, start: Start) -> None:
    """Record in the workdir what the run is made from; `UserError` if the record is another."""
    workdir = run.workdir
    # Read again: another training may have begun the run since, until this one got the lock.
    saved = read_config(workdir)
    if saved is None:
        lineage.write(workdir, start.lineage, start.init, run.records.collection)
        with reported(workdir, "written"):
            table = parameter_table(start.variables) + "\n"
            write_bytes(workdir / "parameters.txt", table.encode())
        # The config goes last: a workdir that has one has the rest.
        write_config(run.config, workdir, run.data_summary)
        return
    if start.init != (started_from := lineage.read(workdir)[1]):
        raise _refused(
            run,
            f"whose weights (digest {start.init}) are others than --workdir {workdir} was started "
            f"from (digest {started_from}); put those back, or choose another --workdir",
        )
    check_unchanged(run.config, run.data_summary, saved, workdir)


def parameter_table(variables: Variables) -> str:
    """List the shape and the size of each parameter, and the totals; shapes alone suffice."""
    rows = [("parameter", "shape", "count")]
    total = 0
    for branch in sorted(variables["params"], key=BRANCHES.index):
        leaves, _ = jax.tree.flatten_with_path(variables["params"][branch])
        counts = [math.prod(leaf.shape) for _, leaf in leaves]
        for (path, leaf), count in zip(leaves, counts, strict=True):
            name = jax.tree_util.keystr(path, simple=True, separator="/")
            rows.append((f"{branch}/{name}", "x".join(map(str, leaf.shape)), f"{count:,}"))
        rows.append((f"{branch}, total", "", f"{sum(counts):,}"))
        total += sum(counts)
    rows.append(("all branches", "", f"{total:,}"))
    width, wide, long = (max(map(len, column)) for column in zip(*rows, strict=True))
    return "\n".join(f"{a:{width}}  {b:{wide}}  {c:>{long}}" for a, b, c in rows)


def read_init(run: Run) -> tuple[Backbones, Lineage]:
    """Read the backbones in `config.init`, and what they have been trained on.

    They are converted weights or another run's stage; `random` has none. In the paper both branches
    start from an ImageNet model. From a stage, both take the global branch's backbone.
    """
    init = run.config.init
    if init == "random":
        return {}, lineage.NOTHING
    identity = {key: run.identity[key] for key in ("backbone", "channels")}
    if not weights.is_weights(init):
        return _read_stage(run, identity)
    backbones = {branch: weights.load_backbone(init, identity, branch) for branch in _WITH_BACKBONE}
    about = weights.describe(init)
    _check_normalisation(run, about["mean"], about["std"])
    return backbones, weights.lineage(init)


def _read_stage(run: Run, identity: dict[str, Any]) -> tuple[Backbones, Lineage]:
    init, backbone, stage = run.config.init, run.config.backbone, absolute(run.config.init)
    if not exists(stage / "checkpoints"):
        if backbone in hub.IMAGENET and init == weights.imagenet_directory(backbone):
            raise UserError(weights.missing_imagenet(backbone, init))
        raise _refused(
            run,
            "which holds no weights; give a folder that data_prep/torch_weights.py wrote, a "
            "trained stage such as runs/resnet/stages/1_global, or random",
        )
    with StageCheckpoints(stage / "checkpoints", identity, read_only=True) as checkpoints:
        best, saved = checkpoints.restore_best()
    trained = best["variables"]
    if "global" not in trained["params"]:
        names = ", ".join(trained["params"])
        raise _refused(
            run, f"a stage that trained {names}; give one that trained the global branch"
        )
    global_backbone = {kind: tree["global"]["backbone"] for kind, tree in trained.items()}
    backbones = dict.fromkeys(_WITH_BACKBONE, global_backbone)
    # A stage says what it was trained on only from within its own run's folder.
    workdir = stage.parent.parent
    if config := read_config(workdir):
        seen, _ = lineage.read(workdir)
        if saved.get("lineage") == seen.digest:
            _check_normalisation(run, config.mean, config.std)
            return backbones, seen
    return backbones, lineage.UNKNOWN


def _check_normalisation(run: Run, mean: Any, std: Any) -> None:
    config, theirs = run.config, (tuple(map(float, mean)), tuple(map(float, std)))
    if config.init_normalisation != "own" and theirs != (config.mean, config.std):
        raise _refused(
            run,
            f"made for another config.mean and config.std; set --config.mean='{theirs[0]}' "
            f"--config.std='{theirs[1]}', or keep yours on purpose with "
            f"--config.init_normalisation=own",
        )


def _refused(run: Run, reason: str) -> UserError:
    return UserError(f"config.init is {run.config.init!r}, {reason}")


def initial_variables(run: Run, backbones: Backbones) -> Variables:
    """Draw the weights of all branches from the seed, except for the backbones that are given."""
    recipe = run.recipe
    variables = _draw(recipe.model, jax.random.key(recipe.seed), recipe.input_size)
    if run.config.dtype == "float64":
        variables = jax.tree.map(lambda leaf: leaf.astype(jnp.float64), variables)
    for branch, backbone in backbones.items():
        drawn = {kind: tree[branch]["backbone"] for kind, tree in variables.items()}
        ours, theirs = _shapes(drawn), _shapes(backbone)
        for name in sorted(ours.keys() | theirs.keys()):
            if ours.get(name) != theirs.get(name):
                raise _refused(
                    run,
                    f"whose weights do not fit: {name} has shape {theirs.get(name)} instead of "
                    f"{ours.get(name)}",
                )
        fitting = jax.tree.map(lambda given, like: given.astype(like.dtype), backbone, drawn)
        for kind, tree in fitting.items():
            variables[kind][branch]["backbone"] = tree
    return variables


def _shapes(tree: Any) -> dict[str, tuple[int, ...]]:
    return {jax.tree_util.keystr(path): x.shape for path, x in jax.tree.leaves_with_path(tree)}
