"""The recipe, as a difference from grpo."""

from __future__ import annotations

from typing import Any

import dovetail as dt


@dt.algorithm(using=dt.recipes.grpo(scale="none", reduction="sequence_sum_mean"))
def kimi(graph: Any, *, tau: float = 0.1) -> None:
    """Online mirror descent as in Kimi k1.5 (2025, arXiv 2501.12599): reward minus group mean, a squared step.

    Args:
        tau: See the loss ``mirror-descent``.
    """
    graph.set("loss", use="mirror-descent", tau=tau)
