"""The recipe: grpo, with credit by turn."""

from __future__ import annotations

from typing import Any

import dovetail as dt


@dt.algorithm(using=dt.recipes.grpo)
def turn_grpo(graph: Any, *, gamma: float = 1.0) -> None:
    """Grpo whose advantages compare turns, not episodes; see the estimator ``turn``.

    Args:
        gamma: Discount for each turn. Usual range 0.9 to 1.
    """
    graph.advantages.replace_with(dt.advantages("turn", graph.rewards, gamma=gamma, scale="group"))
