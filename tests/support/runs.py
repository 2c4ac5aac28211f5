"""Runs whose stages have finished, made without training."""

import flax.struct
import grain
import numpy as np

from agcnn_jax.config.saved import write_config
from agcnn_jax.config.strategies import stages
from agcnn_jax.run import lineage, stage_results
from agcnn_jax.run.checkpoints import StageCheckpoints
from agcnn_jax.runtime.storage import write_json


@flax.struct.dataclass
class State:
    step: np.ndarray
    variables: dict


def make_run(experiment, variables, branches):
    """Write a workdir of the strategy G_L_F in which the stages of `branches` have finished."""
    workdir, records, split = experiment.workdir, experiment.records, experiment.split
    write_config(experiment.config, workdir, experiment.data_summary)
    seen = lineage.lineage_of(
        records.collection,
        records.image_ids[split.train].tolist(),
        records.patient_ids[split.train].tolist(),
        synthetic=records.synthetic,
    )
    lineage.write(workdir, seen, None)
    batches = iter(grain.MapDataset.range(3).to_iter_dataset())
    earlier = {}
    for stage in stages("G_L_F")[: len(branches)]:
        origin = {"started_from": dict(earlier), "lineage": seen.digest}
        folder = stage_results.stage_directory(workdir, stage)
        trained = {kind: {b: tree[b] for b in stage.branches} for kind, tree in variables.items()}
        with StageCheckpoints(
            folder / "checkpoints", {**experiment.identity, **origin}
        ) as checkpoints:
            checkpoints.save(7, State(np.int32(7), trained), batches)
            checkpoints.add_score(7, 0.6, 2)
        now = stage_results.digests(trained, stage.branches)
        result = {"best_step": 7, "best_val_auc_mean": 0.6, "val_auc_findings": 2, "weights": now}
        result |= {**origin, "image_size": records.image_size, "val_auc": {}}
        write_json(folder / "result.json", result)
        earlier |= now
