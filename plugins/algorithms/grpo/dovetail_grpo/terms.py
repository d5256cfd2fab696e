"""Terms that the policy loss is made of: the KL penalty and the weights against a sampler that differs."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from dovetail import Ragged


def kl_terms(logprobs: Ragged, ref_logprobs: Ragged, estimator: str, *, clamp: bool = False) -> Ragged:
    """Per-token estimate of KL(policy, reference) from tokens of the policy.

    Schulman 2020, "Approximating KL divergence": with ``d = ref - logprobs``, k1 ``-d`` (unbiased; as a loss its
    gradient is 0 in expectation on policy, so it only adds noise), k2 ``d²/2`` (biased, but its gradient on policy is
    that of KL(policy, reference)), k3 ``exp(d) - d - 1`` (unbiased, never negative; its gradient on policy is that of
    KL(reference, policy)).
    """
    gap = ref_logprobs - logprobs
    if clamp:
        gap = gap.clamp(-20, 20)
    terms = {"k1": lambda: -gap, "k2": lambda: gap * gap / 2, "k3": lambda: gap.exp() - gap - 1}[estimator]()
    return terms.clamp(-10, 10) if clamp else terms


def sampler_ratios(old_logprobs: Ragged, sampled_logprobs: Ragged, level: str) -> Ragged:
    """Importance ratios ``exp(old - sampled)`` against the sampler's numerics, per token; no gradient."""
    gap = (old_logprobs - sampled_logprobs).detach()
    if level == "sequence":
        gap = gap.spread(gap.sum())
    elif level == "geometric":
        gap = gap.spread(gap.mean())
    # The product over a long sequence leaves float32: an infinite ratio would turn a masked token into NaN.
    return gap.clamp(-20, 20).exp()


def bounded(ratios: Ragged, correction: str, cap: float, floor: float) -> Ragged:
    """Weights from ratios: at most ``cap`` (``truncate``), or 0 outside ``[floor, cap]`` (``mask``).

    Truncated: Yao et al. 2025, "Your efficient RL framework secretly brings you off-policy RL training". Masked:
    IcePop (Ling team 2025).
    """
    if correction == "truncate":
        return ratios.clamp(max=cap)
    inside = (ratios.values >= floor) & (ratios.values <= cap)
    return ratios.map(lambda values: values * inside)
