"""The recipe, as a difference from grpo."""

from __future__ import annotations

from typing import Any

import dovetail as dt


@dt.algorithm(using=dt.recipes.grpo(scale="none", reduction="sequence_sum_norm", norm=256.0))
def dr_grpo(graph: Any) -> None:
    """Dr. GRPO (Liu et al. 2025, arXiv 2503.20783): neither the group's spread nor a length divides anything."""
