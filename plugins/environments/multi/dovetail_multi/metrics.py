"""What a step's metrics tell of each environment."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from dovetail_multi.mixture import COLUMN

if TYPE_CHECKING:
    from dovetail import Rollouts


def by_environment(rollouts: Rollouts, names: Sequence[str]) -> dict[str, float]:
    """``multi/<environment>/share``, ``…/invalid``, and the mean of each of its rewards over the valid samples."""
    owners = [str(task.columns.get(COLUMN, "")).partition("/")[0] for task in rollouts.tasks]
    found: dict[str, float] = {}
    for name in names:
        rows = [row for row, owner in enumerate(owners) if owner == name]
        found[f"multi/{name}/share"] = len(rows) / max(1, len(owners))
        failed: set[int] = set()
        for reward, scores in rollouts.rewards.items():
            if not _belongs(reward, name, names):
                continue
            valid = [row for row in rows if bool(scores.valid[row])]
            failed |= set(rows) - set(valid)
            if valid:
                found[f"multi/{name}/{reward}"] = scores.values[valid].mean().item()
        if rows:
            found[f"multi/{name}/invalid"] = len(failed) / len(rows)
    return found


def _belongs(reward: str, name: str, names: Sequence[str]) -> bool:
    """Whether an environment's samples have this reward: not if it is a component of another one."""
    return not any(f".{other}." in reward for other in names if other != name)
