"""Training strategies: in which stages which branches are trained (Section III-C, Table II)."""

from __future__ import annotations

import dataclasses

import numpy as np


@dataclasses.dataclass(frozen=True)
class Stage:
    """One stage: the branches it trains; every other branch is frozen."""

    number: int  # position in the strategy, from 1
    branches: tuple[str, ...]  # the trained ones, in the order global, local, fusion

    @property
    def name(self) -> str:
        """Folder and display name, such as `1_global` or `2_local+fusion`."""
        return f"{self.number}_{'+'.join(self.branches)}"

    @property
    def selects_by(self) -> str:
        """The branch whose validation AUC picks the stage's best checkpoint: the last trained."""
        return self.branches[-1]

    def seed(self, run_seed: int) -> int:
        """Derive the stage's own seed, at least 0 and below 2**31.

        It draws the stage's order of records and its crops, so that no stage repeats another's.
        """
        return int(np.random.SeedSequence([run_seed, self.number]).generate_state(1)[0] >> 1)


STRATEGIES: dict[str, tuple[tuple[str, ...], ...]] = {
    "G_L_F": (("global",), ("local",), ("fusion",)),
    "G_LF": (("global",), ("local", "fusion")),
    "GL_F": (("global", "local"), ("fusion",)),
    "GLF": (("global", "local", "fusion"),),
    "G_L_F*": (("global",), ("local",), ("global", "local", "fusion")),
}
"""The paper's name of each strategy, and the branches that its stages train."""


def stages(strategy: str) -> tuple[Stage, ...]:
    """List a strategy's stages in order."""
    return tuple(Stage(i, branches) for i, branches in enumerate(STRATEGIES[strategy], start=1))


def branches_before(strategy: str, stage: Stage) -> tuple[str, ...]:
    """Name the branches that a strategy has trained before a stage, in the order of training."""
    earlier = STRATEGIES[strategy][: stage.number - 1]
    return tuple(dict.fromkeys(branch for trained in earlier for branch in trained))
