"""The recipe: sample, and take the teacher's distribution at each sampled token as the target."""

from __future__ import annotations

from typing import Any

import dovetail as dt
from dovetail_gkd.divergence import divergence


@dt.recipe
def gkd(
    policy: Any,
    teacher: Any,
    prompts: Any,
    *,
    samples: int = 1,
    beta: float = 0.5,
    temperature: float = 1.0,
    top_k: int | None = None,
    epochs: int = 1,
    minibatches: int = 1,
) -> None:
    """Generalised knowledge distillation (Agarwal et al. 2024, arXiv 2306.13649) on the policy's own answers.

    Args:
        samples: Answers for each prompt. Usual range 1 to 8.
        beta: Of the divergence: 0 is the forward KL, which covers all that the teacher may say, 1 the reverse KL, which
            seeks what it says most; between them the Jensen-Shannon divergence. Usual values 0.5 and 1.
        temperature: Divides both models' logits in the divergence. Usual value 1.
        top_k: Compare on the teacher's likeliest tokens alone, both distributions renormalised; null takes all. Usual
            range 20 to 100.
        epochs: Times that each batch is learnt from. Usual range 1 to 4.
        minibatches: Optimizer steps in one epoch.
    """
    if not 0 <= beta <= 1:
        raise dt.RecipeError(f"beta must be from 0 to 1, got {beta:g}")
    if temperature <= 0:
        raise dt.RecipeError(f"temperature must be above 0, got {temperature:g}")
    if top_k is not None and top_k < 2:
        raise dt.RecipeError(
            f"top_k must be at least 2, got {top_k}: one token has probability 1 whatever the policy does"
        )
    completions = dt.generate(policy, prompts, samples=samples, name="completions")
    options = {"beta": beta, "temperature": temperature, "top_k": top_k}
    dt.set_loss(
        divergence(policy, teacher, completions, **options, name="loss"), epochs=epochs, minibatches=minibatches
    )
