"""The recipe, as a difference from grpo."""

from __future__ import annotations

from typing import Any

import dovetail as dt


@dt.algorithm(using=dt.recipes.grpo)
def cispo(graph: Any, *, cap: float = 5.0, floor: float = 0.0) -> None:
    """Clipped importance-sampling weights (MiniMax 2025, arXiv 2506.13585): grpo with the clip on the weight.

    Args:
        cap: See the loss ``cispo``.
        floor: See the loss ``cispo``.
    """
    graph.set("loss", use="cispo", cap=cap, floor=floor)
