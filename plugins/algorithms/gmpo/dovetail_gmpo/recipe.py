"""The recipe, as a difference from grpo."""

from __future__ import annotations

from typing import Any

import dovetail as dt


@dt.algorithm(using=dt.recipes.grpo(clip=0.4, reduction="sequence_mean"))
def gmpo(graph: Any) -> None:
    """Geometric-mean policy optimisation (Zhao et al. 2025, arXiv 2507.20673): grpo on geometric means of ratios."""
    graph.set("loss", use="gmpo")
