"""Outcomes of whole trainings beside PyTorch's: mean AUC of each branch over several seeds.

    python benchmarks/outcomes.py --ours FILES --twin FILES [--out FILE.json]

--ours are results of `python -m agcnn_jax.experiments` (W/results/*.json), one of each seed, --twin
those of benchmarks/train_twin.py. All must have the same data, split and config but for the seed.
The interval of a difference is Welch's, over the seeds of both sides. All of them train on the same
images and score the same images, so it says nothing about other patients. Prints a table in
Markdown; --out also writes it, with the AUC of each finding, to FILE.json and FILE.md.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
from scipy import optimize, stats

sys.path.append(str(Path(__file__).resolve().parents[1]))  # the package need not be installed

from etils import epath
from reporting import table
from train_twin import differences

from agcnn_jax.runtime.errors import OneLineParser, UserError, run
from agcnn_jax.runtime.storage import read_json

BRANCHES = ("global", "local", "fusion")
CONFIDENCE, POWER = 0.95, 0.8
INDIFFERENT = ("config.seed", "config.attention.cropper", "config.batch_norm")
"""Keys in which runs on one device may differ from the twin's config."""

Result = dict[str, Any]


def read_twin(path: str) -> Result:
    """Read a file of benchmarks/train_twin.py."""
    result = read_json(epath.Path(path), "give a file of benchmarks/train_twin.py")
    if not {"seed", "branches", "recipe"} <= set(result):
        raise UserError(f"--twin {path} is no file of benchmarks/train_twin.py; give one")
    return result


def read_ours(path: str, recipe: Result) -> Result:
    """Read a result of an experiment; `UserError` unless it was made by the twin's recipe."""
    result = read_json(epath.Path(path), "give a result of an experiment")
    if not {"config", "data", "test"} <= set(result):
        raise UserError(f"--ours {path} is no result of an experiment; give W/results/NAME.json")
    config, test = result["config"], result["test"]
    data = {key: result["data"].get(key) for key in recipe["data"]}
    for key, pair in differences({"config": config, "data": data}, recipe).items():
        if key not in INDIFFERENT:
            raise UserError(
                f"--ours {path}: {key} is {pair[0]!r} there and {pair[1]!r} in --twin; compare "
                "runs of one config on the same data"
            )
    branches = {
        branch: {"mean": test["mean"][branch], "auc": test["auc"][branch]} for branch in BRANCHES
    }
    return {"seed": config["seed"], "branches": branches}


def compare(ours: list[float], twin: list[float]) -> dict[str, Any]:
    """Compare two samples of mean AUCs, one number a seed.

    Returns:
        Both means and standard deviations; the difference of the means with Welch's interval; and
        `detectable`, the true difference that a t-test with these deviations and numbers of seeds
        shows (p < 0.05) with a probability of 0.8. What one seed a side cannot tell is None.
    """
    row: dict[str, Any] = {"difference": float(np.mean(ours) - np.mean(twin))}
    for name, values in (("ours", ours), ("twin", twin)):
        spread = float(np.std(values, ddof=1)) if len(values) > 1 else None
        row[name] = {"mean": float(np.mean(values)), "deviation": spread, "seeds": len(values)}
    if min(len(ours), len(twin)) < 2:
        return row | {"interval": None, "detectable": None}
    test = stats.ttest_ind(ours, twin, equal_var=False)
    low, high = test.confidence_interval(CONFIDENCE)
    return row | {"interval": [float(low), float(high)], "detectable": detectable(ours, twin)}


def detectable(ours: list[float], twin: list[float]) -> float:
    """Return the difference that a two-sided t-test of these two samples' sizes would show."""
    counts = np.array([len(ours), len(twin)])
    freedom = int(counts.sum()) - 2
    variance = (np.var(ours, ddof=1), np.var(twin, ddof=1)) @ (counts - 1) / freedom
    critical = stats.t.ppf((1 + CONFIDENCE) / 2, freedom)

    def excess(shift: float) -> float:
        # The other tail is negligible, and scipy (1.17) makes NaN of it.
        return float(stats.nct.sf(critical, freedom, shift)) - POWER

    shift = optimize.brentq(excess, 0.0, 20.0)
    return float(shift * np.sqrt(variance * (1 / counts).sum()))


def summarise(ours: list[Result], twin: list[Result]) -> Result:
    """Compare the branches, and fusion minus global of one seed; average findings."""

    def means(results: list[Result], branch: str) -> list[float]:
        return [one["branches"][branch]["mean"] for one in results]

    def gains(results: list[Result]) -> list[float]:
        pairs = zip(means(results, "fusion"), means(results, "global"), strict=True)
        return [fusion - whole for fusion, whole in pairs]

    rows = {branch: compare(means(ours, branch), means(twin, branch)) for branch in BRANCHES}
    rows["fusion minus global"] = compare(gains(ours), gains(twin))
    return {
        "rows": rows,
        "mean_auc": {
            name: {branch: means(side, branch) for branch in BRANCHES}
            for name, side in (("ours", ours), ("twin", twin))
        },
        "findings": {
            branch: {
                finding: [average(side, branch, finding) for side in (ours, twin)]
                for finding in twin[0]["branches"][branch]["auc"]
            }
            for branch in BRANCHES
        },
        "data": twin[0]["recipe"]["data"],
        "config": twin[0]["recipe"]["config"],
        "machine": twin[0]["machine"],
    }


def average(side: list[Result], branch: str, finding: str) -> float | None:
    """Average a finding's AUC over the seeds; None if the test images have one class only."""
    values = [one["branches"][branch]["auc"][finding] for one in side]
    return None if None in values else float(np.mean(values))


def as_markdown(summary: Result) -> str:
    """Write the table."""
    titles = ["mean test AUC", "this package", "PyTorch"]
    titles += ["difference", "95 % interval", "detectable"]
    lines = []
    for name, row in summary["rows"].items():
        sides = [f"{side['mean']:.4f}{spread(side)}" for side in (row["ours"], row["twin"])]
        interval = "{:+.4f} to {:+.4f}".format(*row["interval"]) if row["interval"] else ""
        shown = f"{row['detectable']:.4f}" if row["detectable"] is not None else ""
        lines.append([name, *sides, f"{row['difference']:+.4f}", interval, shown])
    return table(titles, lines)


def spread(side: dict[str, Any]) -> str:
    """Write a standard deviation beside its mean, if there is one."""
    return f" ± {side['deviation']:.4f}" if side["deviation"] is not None else ""


def main() -> None:
    """Read, compare, print and write."""
    parser = OneLineParser(about=__doc__.split("\n")[0])
    parser.add_argument("--ours", nargs="+", required=True, metavar="FILE", help="our results")
    parser.add_argument("--twin", nargs="+", required=True, metavar="FILE", help="the twin's files")
    parser.add_argument("--out", type=Path, metavar="FILE.json")
    options = parser.parse_args()
    if options.out and options.out.suffix != ".json":
        raise UserError(f"--out {options.out}: give a name that ends in .json")
    twin = [read_twin(path) for path in options.twin]
    recipe = twin[0]["recipe"]
    for path, one in zip(options.twin, twin, strict=True):
        if differences(one["recipe"], recipe):
            raise UserError(f"--twin {path} has another config or data than {options.twin[0]}")
    ours = [read_ours(path, recipe) for path in options.ours]
    for option, side in (("--ours", ours), ("--twin", twin)):
        if len({one["seed"] for one in side}) < len(side):
            raise UserError(f"{option} has a seed twice; give each seed once")
    summary = summarise(ours, twin)
    text = as_markdown(summary)
    print(text)
    if options.out:
        options.out.parent.mkdir(parents=True, exist_ok=True)
        options.out.write_text(json.dumps(summary, indent=1) + "\n")
        options.out.with_suffix(".md").write_text(text + "\n")


if __name__ == "__main__":
    run(main)
