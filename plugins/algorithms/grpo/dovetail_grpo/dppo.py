"""A trust region on probabilities instead of ratios."""

from __future__ import annotations

from typing import TYPE_CHECKING

import attrs
from attrs.validators import ge

from dovetail import hookimpl

if TYPE_CHECKING:
    from dovetail import LossTerms, Ragged


@attrs.frozen
class DPPOLoss:
    """``-[inside] r A + tau (log r)²`` per token, ``r = exp(logprobs - sampled_logprobs)``.

    The default loss of prime-rl: the binary total-variation mask of DPPO (arXiv 2602.04879) and a squared log-ratio
    as in Kimi k1.5. The ratio is to the sampler. A token is outside, and gets no policy gradient, where A > 0 and the
    policy's probability is more than ``high`` above the sampler's, or A <= 0 and more than ``low`` below it.

    Args:
        low: How far a probability may fall and still push. Usual value 0.2.
        high: How far it may rise. Usual range 0.2 to 0.28.
        tau: Weight of the squared log-ratio. Usual value 0.001.
    """

    low: float = attrs.field(default=0.2, validator=ge(0))
    high: float = attrs.field(default=0.2, validator=ge(0))
    tau: float = attrs.field(default=1e-3, validator=ge(0))

    def formula(self) -> str:
        """In symbols: lp is the log-prob, A the advantage."""
        return (
            f"L = −[inside] r A + {self.tau:g} (log r)², r = exp(lp − sampled)\n"
            f"inside: p − q ≤ {self.high:g} where A > 0, else q − p ≤ {self.low:g}; p and q the probabilities of a token\n"
            "averaged over all tokens of the step"
        )

    @hookimpl
    def loss_terms(self, advantages: Ragged, logprobs: Ragged, sampled_logprobs: Ragged) -> LossTerms:
        """Terms per token; every argument is a Ragged over the sampled tokens."""
        import torch

        from dovetail import LossTerms

        gap = logprobs - sampled_logprobs
        moved = (logprobs.exp() - sampled_logprobs.exp()).values.detach()
        inside = torch.where(advantages.values > 0, moved <= self.high, moved >= -self.low).to(moved.dtype)
        terms = gap.map(torch.square) * self.tau - gap.exp() * advantages * gap.with_values(inside)
        metrics = {"ratio": gap.exp().detach(), "clip_fraction": gap.with_values(1 - inside)}
        return LossTerms(terms, metrics=metrics)
