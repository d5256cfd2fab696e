"""Generalised advantage estimation, with one trace decay for the policy and, if wanted, another for the value model."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import attrs
from attrs.validators import and_, ge, gt, in_, le, optional

from dovetail import hookimpl

if TYPE_CHECKING:
    from torch import Tensor

    from dovetail import Advantages, Ragged

_share = and_(ge(0), le(1))


@attrs.frozen
class GAE:
    """``A_t = δ_t + γ λ A_{t+1}``, ``δ_t = r_t + γ V_{t+1} - V_t``, over sampled tokens; returns are ``A + V``.

    Schulman et al. 2016 (arXiv 1506.02438), equations 11 to 16. The reward stands at the last sampled token. Tool and
    observation tokens are no steps: they are skipped, not discounted. A completion that ended has no value after it;
    one that the token limit cut is continued by the value of its last state, if ``bootstrap`` says so.

    With ``kl_coef`` every token pays for its distance to the reference, ``r_t -= kl_coef * KL_t`` (Ziegler et al. 2019,
    arXiv 1909.08593, section 2.1). ``value_lam`` and ``length_alpha`` are VAPO's (Yue et al. 2025, arXiv 2504.05118,
    section 4.1): another λ for the returns, and ``λ = 1 - 1 / (length_alpha * tokens)`` for the advantages.

    Args:
        gamma: Discount per sampled token. Usual value 1.
        lam: Between one-step differences (0) and whole returns (1). Usual range 0.9 to 1.
        value_lam: The λ of the returns, which the value model learns; null takes that of the advantages. VAPO: 1.
        length_alpha: Let λ grow with the completion, in the place of ``lam``; below ``1 / length_alpha`` tokens it is
            0. null is off. VAPO: 0.05.
        bootstrap: Continue a completion that was cut. Right where a reward is earned along the way, and the cut is no part
            of the task (Pardo et al. 2018, arXiv 1712.00378). Where the reward judges the completion as it stands, as
            those of language models mostly do, a policy soon learns to be cut.
        kl_coef: Price of a nat between policy and reference; 0 needs no reference. Usual range 0 to 0.1.
        kl_estimator: On ``d = ref - logprobs``: ``k1`` is ``-d``, ``k3`` is ``exp(d) - d - 1``.
        whiten: Give the advantages mean 0 and sample variance 1 over the batch, after the returns are taken.
    """

    gamma: float = attrs.field(default=1.0, validator=_share)
    lam: float = attrs.field(default=0.95, validator=_share)
    value_lam: float | None = attrs.field(default=None, validator=optional(_share))
    length_alpha: float | None = attrs.field(default=None, validator=optional(gt(0)))
    bootstrap: bool = False
    kl_coef: float = attrs.field(default=0.0, validator=ge(0))
    kl_estimator: Literal["k1", "k3"] = attrs.field(default="k1", validator=in_(["k1", "k3"]))
    whiten: bool = False

    @property
    def traits(self) -> tuple[str, ...]:
        return ("normalises",) if self.whiten else ()

    def ignores(self) -> tuple[str, ...]:
        unused = () if self.kl_coef else ("logprobs", "ref_logprobs")
        return unused if self.bootstrap else (*unused, "final_values", "truncated")

    @hookimpl
    def estimate(
        self,
        rewards: Tensor,
        values: Ragged,
        final_values: Tensor | None,
        truncated: Tensor | None,
        logprobs: Ragged | None,
        ref_logprobs: Ragged | None,
    ) -> Advantages:
        """Advantages and returns over the sampled tokens.

        Args:
            rewards: ``[B]``.
            values: Of the state before each sampled token.
            final_values: ``[B]``, of the state after the last token; None without ``bootstrap``.
            truncated: ``[B]`` bool; None without ``bootstrap``.
            logprobs: Of the policy; None without ``kl_coef``.
            ref_logprobs: Of the reference; None without ``kl_coef``.

        Raises:
            ValueError: A value is not finite.
        """
        from dovetail import Advantages
        from dovetail_advantages import discounted_sums, whitened

        _check_finite(values, final_values)
        token_rewards, metrics = at_the_end(rewards, values), {}
        if logprobs is not None and ref_logprobs is not None:
            kl = self._kl(logprobs, ref_logprobs)
            token_rewards = token_rewards - kl * self.kl_coef
            metrics = {"kl": float(kl.sum().mean()), "kl_coef": self.kl_coef} if len(kl) else {}
        after = values.lengths.new_zeros(len(values)) if final_values is None else final_values * truncated
        following = next_values(values, after)
        delta = token_rewards + following * self.gamma - values
        lam = values.lengths.to(values.values.dtype)
        lam = lam.new_full(lam.shape, self.lam) if self.length_alpha is None else adaptive_lam(lam, self.length_alpha)
        advantages = discounted_sums(delta, self.gamma * lam)
        if self.value_lam is None:
            returns = advantages + values
        else:
            returns = discounted_sums(delta, lam.new_full(lam.shape, self.gamma * self.value_lam)) + values
        metrics |= _explained(values, returns)
        return Advantages(whitened(advantages) if self.whiten else advantages, returns, metrics)

    def _kl(self, logprobs: Ragged, ref_logprobs: Ragged) -> Ragged:
        gap = ref_logprobs - logprobs
        return -gap if self.kl_estimator == "k1" else gap.exp() - gap - 1


def at_the_end(rewards: Tensor, values: Ragged) -> Ragged:
    """The reward of a sequence ``[B]`` as a reward per token: at the last one, 0 before."""
    is_last = values.positions == (values.lengths - 1)[values.row_ids]
    return values.spread(rewards.to(values.values.dtype)).map(lambda spread: spread * is_last)


def next_values(values: Ragged, after: Tensor) -> Ragged:
    """``V_{t+1}`` for every token, ``after`` ``[B]`` for the last."""
    import torch

    following = torch.cat([values.values[1:], values.values[:1]])
    filled = values.lengths > 0
    last = values.offsets[1:][filled] - 1
    return values.with_values(following.index_put((last,), after.to(following.dtype)[filled]))


def adaptive_lam(lengths: Tensor, alpha: float) -> Tensor:
    """``λ = 1 - 1 / (alpha * length)``, at least 0; ``[B]``."""
    return (1 - 1 / (alpha * lengths.clamp(min=1))).clamp(min=0)


def _explained(values: Ragged, returns: Ragged) -> dict[str, float]:
    """Share of the returns' variance that the values explain: 1 is all, 0 what a constant does, below 0 is worse."""
    spread = float(returns.values.var()) if len(returns.values) > 1 else 0.0
    if not spread:
        return {}
    return {"explained_variance": 1 - float((returns.values - values.values).var()) / spread}


def _check_finite(values: Ragged, final_values: Tensor | None) -> None:
    import torch

    rows = values.row_ids[~torch.isfinite(values.values)].tolist()
    if final_values is not None:
        rows += (~torch.isfinite(final_values)).nonzero().flatten().tolist()
    if rows:
        raise ValueError(
            f"the value model gives values that are not finite, first in sequence {rows[0]}; lower its learning rate, "
            "or load it from an earlier checkpoint"
        )
