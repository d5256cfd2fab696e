"""Which tokens are held back: once for a batch, over all of it, so that it does not depend on how the batch is cut.

Cui et al. 2025, The Entropy Mechanism of Reinforcement Learning for Reasoning Language Models (arXiv 2505.22617),
equation 10: ``Cov = (lp - mean(lp)) (A - mean(A))`` of a token, means over all tokens of the batch. Its mean is, with the
opposite sign, how fast a policy-gradient step takes entropy away, and a few tokens make most of it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import dovetail as dt

if TYPE_CHECKING:
    from torch import Tensor

    from dovetail import LossTerms, Ragged, Rollouts, Scores

# Those that read the whole batch are async: they then run once a step, and read the log-probs from before it.


def covariances(advantages: Ragged, logprobs: Ragged, counted: Tensor) -> Tensor:
    """``[N]``, of each token; ``counted`` ``[N]`` bool are those of the means, and the others get ``-inf``."""
    credit, lp = advantages.values, logprobs.values.to(advantages.values)
    if not bool(counted.any()):
        return credit.new_full(credit.shape, -float("inf"))
    products = (credit - credit[counted].mean()) * (lp - lp[counted].mean())
    return products.masked_fill(~counted, -float("inf"))


def quota(share: float, counted: Tensor) -> int:
    """That share of the counted tokens, at least one."""
    return max(int(share * int(counted.sum())), 1)


@dt.op
async def spared(
    advantages: Ragged, logprobs: Ragged, rewards: Scores, completions: Rollouts, share: float, low: float, high: float
) -> {"kept": Ragged, "metrics": dict}:  # type: ignore[valid-type]  # noqa: UP037
    """The advantages, with 0 for tokens drawn at random from those whose covariance lies between ``low`` and ``high``.

    Tokens of rows without a valid reward count nowhere. The draw follows from the sampled tokens, so that a run that is
    resumed draws alike.
    """
    import torch

    counted = rewards.valid[advantages.row_ids]
    found = covariances(advantages, logprobs, counted)
    inside = ((found > low) & (found < high)).nonzero().squeeze(1)
    tokens = completions.sampled.values
    seed = int((tokens * torch.arange(1, len(tokens) + 1)).sum())
    order = torch.randperm(len(inside), generator=torch.Generator().manual_seed(seed))
    drawn = inside[order[: quota(share, counted)]]
    values = advantages.values.index_fill(0, drawn, 0.0)
    return {"kept": advantages.with_values(values), "metrics": summary(found, counted, len(drawn))}


@dt.op
async def most_covariant(
    advantages: Ragged, logprobs: Ragged, rewards: Scores, share: float
) -> {"chosen": Ragged, "old": Ragged, "metrics": dict}:  # type: ignore[valid-type]  # noqa: UP037
    """Where the covariance is largest, 1 and elsewhere 0; and the log-probs from before the batch's first step."""
    import torch

    counted = rewards.valid[advantages.row_ids]
    found = covariances(advantages, logprobs, counted)
    most = found.argsort(descending=True, stable=True)[: min(quota(share, counted), int(counted.sum()))]
    chosen = torch.zeros_like(found).index_fill(0, most, 1.0)
    metrics = summary(found, counted, len(most))
    return {"chosen": advantages.with_values(chosen), "old": logprobs, "metrics": metrics}


def summary(found: Tensor, counted: Tensor, held: int) -> dict[str, float]:
    """The mean covariance, which the entropy falls by, and the share of tokens that are held back."""
    among = found[counted]
    if not len(among):
        return {"covariance": 0.0, "share": 0.0}
    return {"covariance": float(among.mean()), "share": held / len(among)}


@dt.op
def distance(
    logprobs: Ragged, old: Ragged, chosen: Ragged, coef: float, reduction: str, norm: float | None
) -> LossTerms:
    """``coef |lp - old|`` at the chosen tokens, 0 elsewhere; they are averaged as the loss that they are added to."""
    import torch

    away = (logprobs - old).map(torch.abs) * chosen
    return dt.LossTerms(away * coef, reduction, norm, {"kl": away.detach()})
