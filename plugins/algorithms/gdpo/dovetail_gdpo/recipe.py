"""The recipe, as a difference from grpo."""

from __future__ import annotations

from typing import Any

import dovetail as dt


@dt.algorithm(using=dt.recipes.grpo(combine="normalize_then_sum"))
def gdpo(graph: Any) -> None:
    """Group reward-decoupled normalisation (Liu et al. 2026, arXiv 2601.05242): each reward counts by its weight."""
