"""The tasks that are sometimes solved, by what the run itself has seen."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import attrs
from attrs.validators import and_, ge, gt, le

from dovetail import Rollouts, hookimpl


@attrs.define(eq=False)
class Learnability:
    """Draws tasks by ``p (1 - p) + floor``, ``p`` the mean reward that a task has had.

    Foster and Foerster 2025, *Learning to reason at the frontier of learnability* (arXiv 2502.12272), section 3: a task
    that is always or never solved teaches nothing. ``p`` is a running mean, ``p ← p + rate (mean of the step - p)``;
    a task that was not drawn yet counts as one half. Rewards must lie in [0, 1]; others are cut to it.

    Args:
        reward: The label of the reward that says what was solved; null takes the mean over all of the run's rewards.
        rate: How fast ``p`` forgets. Usual range 0.2 to 1.
        floor: Weight that every task has, so that none is lost for good. Usual range 0.01 to 0.1.
    """

    reward: str | None = None
    rate: float = attrs.field(default=0.5, validator=and_(gt(0), le(1)))
    floor: float = attrs.field(default=0.05, validator=and_(ge(0.001), le(1)))
    _solved: dict[str, float] = attrs.field(factory=dict, init=False)

    @hookimpl
    def on_run_start(self, run: Any) -> None:
        """Draw by what is known so far. Tasks that come as a stream are a DataError."""
        self._draw(run)

    @hookimpl
    def on_rollouts(self, run: Any, rollouts: Rollouts) -> None:
        """Remember how often each task of the batch was solved; invalid scores tell nothing."""
        means: dict[str, list[float]] = {}
        for row, task in enumerate(rollouts.tasks):
            chosen = [scores for name, scores in rollouts.rewards.items() if self.reward is None or name == self.reward]
            values = [float(scores.values[row]) for scores in chosen if bool(scores.valid[row])]
            if values:
                means.setdefault(task.id, []).append(min(max(sum(values) / len(values), 0.0), 1.0))
        for id, seen in means.items():
            before = self._solved.get(id)
            mean = sum(seen) / len(seen)
            self._solved[id] = mean if before is None else before + self.rate * (mean - before)

    @hookimpl
    def on_step_end(self, run: Any, step: int, metrics: Mapping[str, float]) -> None:
        """Draw the next batch by it."""
        self._draw(run)

    def _draw(self, run: Any) -> None:
        import torch

        solved = torch.tensor([self._solved.get(task.id, 0.5) for task in run.batches.items], dtype=torch.float64)
        run.batches.weigh(solved * (1 - solved) + self.floor)

    def state_dict(self) -> dict[str, Any]:
        return {"solved": dict(self._solved)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self._solved = dict(state["solved"])
