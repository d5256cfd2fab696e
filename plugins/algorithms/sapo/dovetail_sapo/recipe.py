"""The recipe, as a difference from grpo."""

from __future__ import annotations

from typing import Any

import dovetail as dt


@dt.algorithm(using=dt.recipes.grpo(reduction="sequence_mean"))
def sapo(graph: Any, *, tau_positive: float = 1.0, tau_negative: float = 1.05) -> None:
    """Soft adaptive policy optimisation (Gao et al. 2025, arXiv 2511.20347): grpo with a gate in the place of the clip.

    Args:
        tau_positive: See the loss ``sapo``.
        tau_negative: See the loss ``sapo``.
    """
    graph.set("loss", use="sapo", tau_positive=tau_positive, tau_negative=tau_negative)
