"""Per-token log-probs and entropy from hidden states, without ever holding all logits."""

from __future__ import annotations

from typing import Any

import attrs
import torch
from torch import Tensor


@attrs.frozen(eq=False)
class Head:
    """The linear layer from hidden states to logits, and what a model does to them afterwards."""

    weight: Tensor  #: ``[V, D]``
    bias: Tensor | None = None  #: ``[V]``
    scale: float = 1.0  #: multiplies the logits
    softcap: float | None = None  #: logits become ``softcap * tanh(logits / softcap)``; None leaves them


class _LinearLogprob(torch.autograd.Function):
    """Chunks of rows; logits are recomputed in backward. Softmax and the head's gradient in at least float32.

    One buffer holds the logits of all chunks in turn: fresh memory for each costs more than the arithmetic on it.
    """

    @staticmethod
    def forward(
        ctx: Any,
        hidden: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        targets: Tensor,
        bend: tuple[float, float, float | None],
        chunk: int,
        with_entropy: bool,
    ) -> tuple[Tensor, Tensor | None]:
        accumulate = torch.promote_types(hidden.dtype, torch.float32)
        logprob = torch.empty(len(hidden), dtype=accumulate, device=hidden.device)
        normaliser = torch.empty_like(logprob)
        entropy = torch.empty_like(logprob) if with_entropy else None
        buffer = hidden.new_empty(min(chunk, len(hidden)), len(weight))
        for start in range(0, len(hidden), chunk):
            rows = slice(start, start + chunk)
            logits, _ = _logits(hidden[rows], weight, bias, bend, buffer)
            top = logits.amax(-1, keepdim=True)
            shifted = logits.sub_(top)
            target = shifted.gather(-1, targets[rows, None]).squeeze(-1)
            weights = torch.exp(shifted) if entropy is not None else shifted.exp_()
            total = weights.sum(-1)
            log_total = total.log()
            logprob[rows] = target - log_total
            normaliser[rows] = log_total + top.squeeze(-1)
            if entropy is not None:
                entropy[rows] = log_total - weights.mul_(shifted).sum(-1) / total
        ctx.save_for_backward(hidden, weight, bias, targets, normaliser, entropy)
        ctx.settings = (bend, chunk)
        return logprob, entropy

    @staticmethod
    def backward(ctx: Any, *grads: Tensor | None) -> tuple[Any, ...]:
        hidden, weight, bias, targets, normaliser, entropy = ctx.saved_tensors
        bend, chunk = ctx.settings
        grad_logprob, grad_entropy = grads
        assert grad_logprob is not None
        accumulate = normaliser.dtype
        grad_hidden = torch.empty_like(hidden) if ctx.needs_input_grad[0] else None
        grad_weight = torch.zeros_like(weight, dtype=accumulate) if ctx.needs_input_grad[1] else None
        grad_bias = torch.zeros_like(bias, dtype=accumulate) if ctx.needs_input_grad[2] else None
        buffer = hidden.new_empty(min(chunk, len(hidden)), len(weight))
        for start in range(0, len(hidden), chunk):
            rows = slice(start, start + chunk)
            upstream = grad_logprob[rows, None]
            logits, slope = _logits(hidden[rows], weight, bias, bend, buffer)
            grad = logits.sub_(normaliser[rows, None])
            if grad_entropy is not None and entropy is not None:
                # d entropy / d logit = -p (log p + entropy); d logprob / d logit = [target] - p
                weighted = grad.add(entropy[rows, None]).mul_(grad_entropy[rows, None]).add_(upstream)
                grad = grad.exp_().mul_(weighted).neg_()
            else:
                grad = grad.exp_().mul_(-upstream)
            grad.scatter_add_(-1, targets[rows, None], upstream)
            grad.mul_(slope)
            if grad_bias is not None:
                grad_bias += grad.sum(0)
            grad = grad.to(hidden.dtype)
            if grad_hidden is not None:
                torch.mm(grad, weight.to(hidden.dtype), out=grad_hidden[rows])
            if grad_weight is not None and grad_weight.dtype == grad.dtype:
                grad_weight.addmm_(grad.t(), hidden[rows])
            elif grad_weight is not None:
                grad_weight += grad.t() @ hidden[rows]
        return (
            grad_hidden,
            grad_weight.to(weight.dtype) if grad_weight is not None else None,
            grad_bias.to(bias.dtype) if grad_bias is not None else None,
            *[None] * 4,
        )


def _logits(
    hidden: Tensor, weight: Tensor, bias: Tensor | None, bend: tuple[float, float, float | None], buffer: Tensor
) -> tuple[Tensor, Tensor | float]:
    """Final logits, and the derivative of them by the linear layer's output. They may lie in ``buffer``."""
    temperature, scale, softcap = bend
    logits = torch.mm(hidden, weight.to(hidden.dtype).t(), out=buffer[: len(hidden)])
    logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
    if bias is not None:
        logits.add_(bias)
    if softcap is None:
        return logits if scale == temperature else logits.mul_(scale / temperature), scale / temperature
    logits.mul_(scale)
    bent = torch.tanh(logits / softcap)
    return bent * (softcap / temperature), (1 - bent * bent) * (scale / temperature)


def linear_logprob(
    hidden: Tensor, head: Head, targets: Tensor, *, temperature: float = 1.0, chunk: int = 256, entropy: bool = False
) -> tuple[Tensor, Tensor | None]:
    """Log-probability of ``targets`` ``[N]`` under ``softmax(head(hidden) / temperature)``, ``hidden`` ``[N, D]``.

    Gives ``[N]`` log-probs and, if asked for, ``[N]`` entropies in nats, in float32 or the wider dtype of ``hidden``.
    The logits of ``chunk`` rows exist at a time.
    """
    result: tuple[Tensor, Tensor | None] = _LinearLogprob.apply(  # type: ignore[no-untyped-call]
        hidden, head.weight, head.bias, targets, (temperature, head.scale, head.softcap), chunk, entropy
    )
    return result
