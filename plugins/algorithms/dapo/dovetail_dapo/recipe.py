"""The recipe, as a difference from grpo."""

from __future__ import annotations

from typing import Any

import dovetail as dt


@dt.algorithm(using=dt.recipes.grpo(clip_high=0.28))
def dapo(
    graph: Any, *, max_draws: int = 10, overlong_limit: int | None = None, overlong_buffer: int | None = None
) -> None:
    """DAPO (Yu et al. 2025, arXiv 2503.14476): token mean, clip-higher, dynamic sampling, overlong shaping.

    Args:
        max_draws: Most batches of prompts for a step, to replace groups whose rewards are all alike; 1 draws once.
        overlong_limit: The token limit, for the reward ``overlong``; null leaves the shaping out.
        overlong_buffer: Of the reward ``overlong``; null takes a fifth of the limit, as DAPO does.
    """
    graph.set("completions", draws=max_draws)
    if overlong_limit is not None:
        buffer = overlong_buffer or max(overlong_limit // 5, 1)
        graph.rewards.replace_with(graph.rewards + dt.reward("overlong", limit=overlong_limit, buffer=buffer))
