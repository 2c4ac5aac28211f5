"""The runs of each experiment."""

from __future__ import annotations

import dataclasses
import itertools
import re
from collections.abc import Mapping, Sequence
from typing import Any

import ml_collections

from agcnn_jax.config.check import check_config
from agcnn_jax.config.keys import FIXED, KEYS, SCORED, flatten, read_values
from agcnn_jax.config.strategies import STRATEGIES
from agcnn_jax.runtime.errors import UserError

TAUS = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)

_PAPER = {"strategy": "G_L_F", "local_input": "crop"}
"""What the paper's Table I was trained with, apart from the statistic and tau of the config."""


@dataclasses.dataclass(frozen=True)
class Experiment:
    """An experiment: the same config with other values of a few keys.

    Attributes:
        title: for tables and figures.
        what: what differs between the rows, the header of their names.
        rows: the keys that each row sets, by its name.
        reference: the row that the others are compared with; "" for none.
    """

    title: str
    what: str
    rows: Mapping[str, Mapping[str, Any]]
    reference: str = ""


EXPERIMENTS: dict[str, Experiment] = {
    "table1": Experiment("Table I: three branches", "backbone", {"": _PAPER}),
    "table2": Experiment(
        "Table II: training strategies",
        "strategy",
        {name: {**_PAPER, "strategy": name} for name in STRATEGIES},
        reference="G_L_F",
    ),
    "table3": Experiment(
        "Table III: statistics of the heat map",
        "statistic",
        {name: {**_PAPER, "attention.statistic": name} for name in ("max", "l1", "l2")},
        reference="max",
    ),
    "control": Experiment(
        "Controls: what the local branch reads",
        "local branch reads",
        {
            "attended region": _PAPER,
            "centred crop": {**_PAPER, "local_input": "centred"},
            "whole image": {**_PAPER, "local_input": "image"},
            "whole image (GLF)": {"strategy": "GLF", "local_input": "image"},
        },
        reference="attended region",
    ),
    "tau": Experiment(
        "Thresholds of the heat map",
        "tau",
        {f"{tau:g}": {**_PAPER, "attention.tau": tau} for tau in TAUS},
    ),
    "detail": Experiment(
        "Beyond the paper: crops from the stored image",
        "crop from",
        {name: {**_PAPER, "attention.crop_from": name} for name in ("input", "stored")},
        reference="input",
    ),
}
"""The paper's experiments by name, its controls, and one beyond it."""

ALL = "all"
NAMES = (*EXPERIMENTS, ALL)

VARIED = (
    "seed",
    "strategy",
    "local_input",
    "attention.statistic",
    "attention.tau",
    "attention.crop_from",
)
"""The keys in which the runs of one workdir may differ, since experiments set them."""

SET_BY_ROWS = ("seed", "strategy", "local_input")
"""The keys that experiments set in every row."""

OF_BACKBONE = ("backbone", "init", "init_normalisation", "batch_size", "reference_batch_size")
"""The keys in which they may differ because another config's runs join them."""


@dataclasses.dataclass(frozen=True)
class PlannedRun:
    """A run of an experiment.

    Attributes:
        experiment: its name.
        row: the row that it belongs to.
        config: resolved.
        asked: the config before the row changed it.
    """

    experiment: str
    row: str
    config: ml_collections.ConfigDict
    asked: ml_collections.ConfigDict

    @property
    def base(self) -> dict[str, Any]:
        """The keys of the config that all runs of a workdir share, before rows change them."""
        common = {**flatten(self.asked.to_dict()), **_PAPER}
        return {key: value for key, value in read_values(common).items() if key not in SET_BY_ROWS}

    @property
    def changes(self) -> Mapping[str, Any]:
        """The keys that the run's row sets."""
        return EXPERIMENTS[self.experiment].rows[self.row]

    @property
    def values(self) -> dict[str, Any]:
        """The keys that the run's results depend on."""
        return read_values(flatten(self.config.to_dict()))

    @property
    def name(self) -> str:
        """A name for its folder, which says how it differs from the runs beside it."""
        values = self.values
        parts = [values["backbone"], values["strategy"].replace("*", "star")]
        if values["local_input"] != "crop":
            parts.append(values["local_input"])
        if "attention.tau" in values:
            parts += [values["attention.statistic"], f"tau{values['attention.tau']:g}"]
        if values.get("attention.crop_from", "input") != "input":
            parts.append("from_" + values["attention.crop_from"])
        return re.sub(r"[^\w.-]", "_", "-".join([*parts, f"seed{self.config.seed}"]))


def plan(
    names: Sequence[str], config: ml_collections.ConfigDict, seeds: int, only: Sequence[str] = ()
) -> list[PlannedRun]:
    """List the runs of experiments, those of one seed together, so that early ones are complete.

    Args:
        names: keys of `EXPERIMENTS`.
        config: what all runs have in common.
        seeds: S; the seeds are 0 to S - 1.
        only: the rows to run; empty for all.

    Raises:
        UserError: if `only` names a row that no experiment has.
    """
    known = [row for name in names for row in EXPERIMENTS[name].rows if row]
    if unknown := [row for row in only if row not in known]:
        what = f"has {', '.join(dict.fromkeys(known))}" if known else "has no rows to choose from"
        raise UserError(f"--rows names {unknown[0]!r}; {' and '.join(names)} {what}")
    runs = []
    for name, seed in itertools.product(names, range(seeds)):
        for row, changes in EXPERIMENTS[name].rows.items():
            if not only or row in only:
                own = config.copy_and_resolve_references()
                with own.ignore_type(), own.unlocked():
                    own.update_from_flattened_dict({**changes, "seed": seed})
                check_config(own)
                runs.append(PlannedRun(name, row, own, config))
    return runs


def check_overruled(runs: Sequence[PlannedRun], overrides: Mapping[str, Any]) -> None:
    """Raise `UserError` if the command line sets a key that every run sets itself or ignores.

    A key that only some of the runs ignore is dropped from these.
    """
    if "seed" in overrides:
        raise UserError("--config.seed has no effect on experiments; give --seeds instead")
    if "eval.crops" in overrides:
        raise UserError(
            "--config.eval.crops has no effect on experiments, which score the centre; leave it out"
        )
    for key in overrides:
        uses = (key in planned.values and key not in planned.changes for planned in runs)
        if KEYS[key].changes in (FIXED, SCORED) and not any(uses):
            names = " and ".join(dict.fromkeys(planned.experiment for planned in runs))
            raise UserError(
                f"--config.{key} has no effect on {names}, whose runs set it or do not read it; "
                f"leave it out"
            )
