"""The recipe: what is left of PPO if each batch gives one step."""

from __future__ import annotations

from typing import Any

import dovetail as dt

_one_step = dt.recipes.ppo(
    epochs=1, lam=1.0, whiten=False, kl_coef=0.0, value_clip=None, vf_coef=0.5, entropy_coef=0.01
)  # fmt: skip


@dt.algorithm(using=_one_step)
def a2c(graph: Any) -> None:
    """Advantage actor-critic (Mnih et al. 2016, arXiv 1602.01783), synchronous: returns less values, one step a batch.

    It is PPO of one epoch (Huang et al. 2022, arXiv 2205.09123): there the ratio is 1 and the gradient ``-A ∇ lp``. With
    more epochs or minibatches the clip counts, and it is PPO again.
    """
