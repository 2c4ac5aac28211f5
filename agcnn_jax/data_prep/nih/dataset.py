"""The data set of NIH's images."""

from __future__ import annotations

from pathlib import Path

from agcnn_jax.data_prep.nih.report import check_bad, check_lists, make_report, missing, summary
from agcnn_jax.data_prep.prepare.plans import Plan
from agcnn_jax.data_prep.prepare.publish import Outcome
from agcnn_jax.data_prep.prepare.store import REPORT, StoreBuilder, write_report, write_store
from agcnn_jax.runtime.errors import say


class ChestXray14(StoreBuilder, skip_registration=True):  # type: ignore[call-arg]
    """The dataset `chest_xray14`."""

    HOMEPAGE = "https://nihcc.app.box.com/v/ChestXray-NIHCC"


def prepare(plan: Plan, data_dir: Path, *, num_workers: int, max_bad: float) -> str:
    """Write the dataset and the report.

    Args:
        plan: from `make_plan` with the same `data_dir`.
        data_dir: folder of the dataset, created if necessary.
        num_workers: number of decoding processes.
        max_bad: largest accepted share of files set aside, 0 to 1.

    Returns:
        A line that says what was done.

    Raises:
        UserError: the folder holds another dataset, too many files are set aside, the official
            lists name none of the images, or the disk is full.
    """

    def review(outcome: Outcome) -> str:
        report = make_report(plan, outcome)
        write_report(data_dir / REPORT, report)
        check_bad(report, max_bad, data_dir / REPORT)
        check_lists(plan, outcome)
        if warning := missing(report):
            say(warning)
        return summary(report)

    return write_store(plan, data_dir, ChestXray14, review, num_workers)
