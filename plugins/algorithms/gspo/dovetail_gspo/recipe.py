"""The recipe, as a difference from grpo."""

from __future__ import annotations

from typing import Any, Literal

import dovetail as dt


@dt.algorithm(using=dt.recipes.grpo(clip=3e-4, clip_high=4e-4, reduction="sequence_mean"))
def gspo(graph: Any, *, level: Literal["sequence", "token"] = "sequence") -> None:
    """Group sequence policy optimisation (Zheng et al. 2025, arXiv 2507.18071): grpo with one ratio for a sequence.

    Args:
        level: See the loss ``gspo``.
    """
    graph.set("loss", use="gspo", level=level)
