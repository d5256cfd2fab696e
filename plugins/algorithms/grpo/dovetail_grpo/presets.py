"""What other systems mean by GRPO: their defaults, each as a difference from ours.

Read 2026-08: TRL 1.16, verl main, NeMo-RL main, OpenRLHF 0.10, prime-rl main. A preset is the maths of advantages and
loss, for a group whose rewards are all valid; learning rates and batch sizes are the run's.
"""

from __future__ import annotations

from typing import Any

import dovetail as dt
from dovetail_grpo.recipe import grpo


@dt.algorithm(
    using=grpo(
        kl_bias_correction=True,
        correction="mask",
        correction_level="sequence",
        correction_cap=3.0,
        correction_floor=0.0,
    )
)
def grpo_trl(graph: Any) -> None:
    """GRPO with the defaults of TRL 1.16: a sequence whose tokens the sampler finds three times less likely counts 0.

    Its KL term, off by default, is corrected by the ratio.
    """


@dt.algorithm(using=grpo(eps=1e-6, dual_clip=3.0, kl_clamp=True))
def grpo_verl(graph: Any) -> None:
    """GRPO with the defaults of verl: dual clip at 3, a smaller eps, a bounded KL estimate (off by default)."""


@dt.algorithm(
    using=grpo(group_size=16, baseline="leave_one_out", spread="leave_one_out", eps=1e-6, beta=0.01, kl_clamp=True)
)
def grpo_nemo(graph: Any) -> None:
    """GRPO as NeMo-RL's grpo_math_1B.yaml has it: mean and spread of the others, a KL penalty of 0.01."""


@dt.algorithm(using=grpo(eps=1e-9))
def grpo_openrlhf(graph: Any) -> None:
    """GRPO with OpenRLHF's ``group_norm``: a far smaller eps, so that a small spread counts fully."""


@dt.algorithm(using=grpo(scale="none"))
def grpo_prime_rl(graph: Any) -> None:
    """GRPO with the defaults of prime-rl: reward minus group mean, and a trust region on probabilities."""
    graph.set("loss", use="dppo")
