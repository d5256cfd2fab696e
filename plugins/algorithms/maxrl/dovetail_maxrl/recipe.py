"""The recipe, as a difference from grpo."""

from __future__ import annotations

from typing import Any

import dovetail as dt


@dt.algorithm(using=dt.recipes.grpo(eps=1e-6))
def maxrl(graph: Any) -> None:
    """Maximum likelihood RL (Tajwar et al. 2026, arXiv 2602.02710): grpo divided by the rate of success."""
    graph.set("advantages", use="maxrl")
