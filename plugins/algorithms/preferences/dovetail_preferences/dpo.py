"""Direct preference optimisation: the loss of Rafailov et al. and the family that grew from it."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Literal, get_args

import attrs
from attrs.validators import ge, gt, in_, lt

from dovetail import hookimpl
from dovetail_preferences.pairs import pairs_of, preference_metrics

if TYPE_CHECKING:
    from torch import Tensor

    from dovetail import LossTerms, Ragged

LossType = Literal[
    "sigmoid",
    "hinge",
    "ipo",
    "robust",
    "cdpo",
    "exo_pair",
    "nca_pair",
    "bco_pair",
    "sppo_hard",
    "aot",
    "apo_zero",
    "apo_down",
    "discopop",
    "sft",
]
SMOOTHED = ("robust", "cdpo", "exo_pair", "aot")


@attrs.frozen
class DPOLoss:
    """``-log σ(β (C - J))`` per pair; C and J are the log-ratios to the reference, summed over an answer's tokens.

    ``C = Σ log π(chosen) - Σ log π_ref(chosen)``, J the same of the rejected answer, ``d = C - J``, ε the label
    smoothing. The family:

    - ``sigmoid``: Rafailov et al. 2023 (arXiv 2305.18290), equation 7.
    - ``hinge``: ``max(0, 1 - βd)``, Zhao et al. 2023 (SLiC, arXiv 2305.10425), with the normalised likelihoods of DPO.
    - ``ipo``: ``(C/|chosen| - J/|rejected| - 1/2β)²``, Azar et al. 2023 (arXiv 2310.12036), equation 17.
    - ``cdpo``: ``-(1-ε) log σ(βd) - ε log σ(-βd)``, Mitchell 2023, *A note on DPO with noisy preferences*.
    - ``robust``: ``[-(1-ε) log σ(βd) + ε log σ(-βd)] / (1-2ε)``, Ray Chowdhury et al. 2024 (arXiv 2403.00409).
    - ``exo_pair``: ``σ(βd) log(σ(βd)/(1-ε)) + σ(-βd) log(σ(-βd)/ε)``, Ji et al. 2024 (arXiv 2402.00856), equation 16.
    - ``nca_pair``: ``-log σ(βC) - ½ log σ(-βC) - ½ log σ(-βJ)``, Chen et al. 2024 (arXiv 2402.05369).
    - ``bco_pair``: ``-log σ(βC) - log σ(-βJ)``, Jung et al. 2024 (arXiv 2404.04656), without the running reward shift.
    - ``sppo_hard``: ``(C - 1/2β)² + (J + 1/2β)²``, Wu et al. 2024 (arXiv 2405.00675), equation 4.7.
    - ``aot``: ``cdpo`` on sorted values: the k-th smallest ``log π(chosen) - log π(rejected)`` of the batch against the
      k-th smallest of the reference, Melnyk et al. 2024 (arXiv 2406.05882). The order is that of the batch before its
      first optimizer step.
    - ``apo_zero``: ``1 - σ(βC) + σ(βJ)``; ``apo_down``: ``σ(βC) + 1 - σ(βd)``, D'Oosterlinck et al. 2024 (arXiv
      2408.06266), equations 7 and 8.
    - ``discopop``: ``-(1-s) log σ(βd) + s exp(-βd)``, ``s = σ(βd/τ)``, Lu et al. 2024 (arXiv 2406.08414), equation 5.
    - ``sft``: the negative log-likelihood of the chosen answer alone, mean over its tokens.

    The loss is the mean over pairs; a group without a preference counts in it with 0.

    Args:
        loss_type: Which of them.
        beta: How strongly the reference is held on to: inverse temperature of the implicit reward. Usual range 0.01 to
            0.5.
        label_smoothing: ε, the share of labels that are assumed flipped; of ``robust``, ``cdpo``, ``exo_pair`` and
            ``aot``. Usual range 0 to 0.3, below 0.5; ``exo_pair`` needs one above 0, usually 1e-3.
        normalize: ``ipo``: divide the log-ratios by the tokens of their answer, as its authors do in practice; False is
            the paper's formula to the letter.
        discopop_tau: τ of ``discopop``.
        nll_coef: Weight of the chosen answer's negative log-likelihood, mean over its tokens, beside the loss: RPO,
            Pang et al. 2024 (arXiv 2404.19733). Usual value 1 for reasoning, else 0.
    """

    loss_type: LossType = attrs.field(default="sigmoid", validator=in_(get_args(LossType)))
    beta: float = attrs.field(default=0.1, validator=gt(0))
    label_smoothing: float = attrs.field(default=0.0, validator=[ge(0), lt(0.5)])
    normalize: bool = True
    discopop_tau: float = attrs.field(default=0.05, validator=gt(0))
    nll_coef: float = attrs.field(default=0.0, validator=ge(0))

    def __attrs_post_init__(self) -> None:
        if self.label_smoothing and self.loss_type not in SMOOTHED:
            raise ValueError(f"label_smoothing belongs to {', '.join(SMOOTHED)}, and loss_type is {self.loss_type!r}")
        if self.loss_type == "exo_pair" and not self.label_smoothing:
            raise ValueError("exo_pair needs a label_smoothing above 0, usually 1e-3")

    def ignores(self) -> tuple[str, ...]:
        return () if self.loss_type == "aot" else ("baselines",)

    @hookimpl
    def loss_terms(
        self, logprobs: Ragged, ref_logprobs: Ragged, rewards: Ragged, groups: Tensor, baselines: Tensor | None
    ) -> LossTerms:
        """Terms ``[B]``: that of a pair at each of its rows."""
        from dovetail import LossTerms

        pairs = pairs_of(logprobs, rewards, groups)
        chosen, rejected = pairs.split((logprobs - ref_logprobs).sum())
        metrics = preference_metrics(pairs, self.beta * chosen, self.beta * rejected)
        likelihood, _ = pairs.split(logprobs.mean())
        if self.loss_type == "sft":
            losses = -likelihood
        else:
            if self.loss_type == "ipo" and self.normalize:
                lengths, other_lengths = pairs.split(logprobs.lengths)
                chosen, rejected = chosen / lengths, rejected / other_lengths
            if baselines is not None:
                chosen, rejected = pairs.split(logprobs.sum())
                rejected = rejected + baselines[pairs.chosen]
            losses = _FORMULAS[self.loss_type](self, chosen, rejected)
        if self.nll_coef:
            losses = losses - self.nll_coef * likelihood
            metrics["nll"] = pairs.spread(-likelihood.detach())
        return LossTerms(pairs.spread(losses), "batch_mean", metrics=metrics)


def log_sigmoid(values: Tensor) -> Tensor:
    import torch

    return torch.nn.functional.logsigmoid(values)


def smoothed(logits: Tensor, smoothing: float) -> Tensor:
    """``-(1-ε) log σ(x) - ε log σ(-x)``: the cross-entropy of labels of which a share ε is flipped."""
    return -(1 - smoothing) * log_sigmoid(logits) - smoothing * log_sigmoid(-logits)


def _conservative(loss: DPOLoss, c: Tensor, j: Tensor) -> Tensor:
    return smoothed(loss.beta * (c - j), loss.label_smoothing)


def _robust(loss: DPOLoss, c: Tensor, j: Tensor) -> Tensor:
    logits, epsilon = loss.beta * (c - j), loss.label_smoothing
    return (-(1 - epsilon) * log_sigmoid(logits) + epsilon * log_sigmoid(-logits)) / (1 - 2 * epsilon)


def _exo_pair(loss: DPOLoss, c: Tensor, j: Tensor) -> Tensor:
    logits, epsilon = loss.beta * (c - j), loss.label_smoothing
    better = logits.sigmoid() * (log_sigmoid(logits) - math.log1p(-epsilon))
    return better + (-logits).sigmoid() * (log_sigmoid(-logits) - math.log(epsilon))


def _nca_pair(loss: DPOLoss, c: Tensor, j: Tensor) -> Tensor:
    c, j = loss.beta * c, loss.beta * j
    return -log_sigmoid(c) - 0.5 * log_sigmoid(-c) - 0.5 * log_sigmoid(-j)


def _discopop(loss: DPOLoss, c: Tensor, j: Tensor) -> Tensor:
    logits = loss.beta * (c - j)
    share = (logits / loss.discopop_tau).sigmoid()
    return -log_sigmoid(logits) * (1 - share) + (-logits).exp() * share


_FORMULAS: Mapping[str, Callable[[DPOLoss, Tensor, Tensor], Tensor]] = {
    "sigmoid": lambda loss, c, j: -log_sigmoid(loss.beta * (c - j)),
    "hinge": lambda loss, c, j: (1 - loss.beta * (c - j)).relu(),
    "ipo": lambda loss, c, j: (c - j - 1 / (2 * loss.beta)).square(),
    "cdpo": _conservative,
    "robust": _robust,
    "exo_pair": _exo_pair,
    "nca_pair": _nca_pair,
    "bco_pair": lambda loss, c, j: -log_sigmoid(loss.beta * c) - log_sigmoid(-loss.beta * j),
    "sppo_hard": lambda loss, c, j: (c - 0.5 / loss.beta).square() + (j + 0.5 / loss.beta).square(),
    "aot": _conservative,
    "apo_zero": lambda loss, c, j: 1 - (loss.beta * c).sigmoid() + (loss.beta * j).sigmoid(),
    "apo_down": lambda loss, c, j: (loss.beta * c).sigmoid() + 1 - (loss.beta * (c - j)).sigmoid(),
    "discopop": _discopop,
}
