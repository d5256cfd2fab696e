"""Per-token log-probs and entropy from hidden states, without ever holding all logits."""

from __future__ import annotations

from typing import Any

import attrs
import torch
from torch import Tensor


@attrs.frozen(eq=False)
class Head:
    """The linear layer from hidden states to logits, and what a model does to them afterwards.

    Args:
        weight: ``[V, D]``.
        bias: ``[V]`` or None.
        scale: Multiplies the logits.
        softcap: Logits become ``softcap * tanh(logits / softcap)``; None leaves them.
    """

    weight: Tensor
    bias: Tensor | None = None
    scale: float = 1.0
    softcap: float | None = None


class _LinearLogprob(torch.autograd.Function):
    """Chunks of rows; logits are recomputed in backward. Softmax and the head's gradient in at least float32."""

    @staticmethod
    def forward(
        ctx: Any,
        hidden: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        targets: Tensor,
        temperature: float,
        scale: float,
        softcap: float | None,
        chunk: int,
        with_entropy: bool,
    ) -> tuple[Tensor, Tensor | None]:
        accumulate = torch.promote_types(hidden.dtype, torch.float32)
        logprob = torch.empty(len(hidden), dtype=accumulate, device=hidden.device)
        normaliser = torch.empty_like(logprob)
        entropy = torch.empty_like(logprob) if with_entropy else None
        for start in range(0, len(hidden), chunk):
            rows = slice(start, start + chunk)
            logits, _ = _logits(hidden[rows], weight, bias, temperature, scale, softcap, accumulate)
            normaliser[rows] = torch.logsumexp(logits, -1)
            logprob[rows] = logits.gather(-1, targets[rows, None]).squeeze(-1) - normaliser[rows]
            if entropy is not None:
                probability = torch.exp(logits - normaliser[rows, None])
                entropy[rows] = normaliser[rows] - (probability * logits).sum(-1)
        ctx.save_for_backward(hidden, weight, bias, targets, normaliser, entropy)
        ctx.settings = (temperature, scale, softcap, chunk)
        return logprob, entropy

    @staticmethod
    def backward(ctx: Any, *grads: Tensor | None) -> tuple[Any, ...]:
        hidden, weight, bias, targets, normaliser, entropy = ctx.saved_tensors
        temperature, scale, softcap, chunk = ctx.settings
        grad_logprob, grad_entropy = grads
        assert grad_logprob is not None
        accumulate = normaliser.dtype
        grad_hidden = torch.empty_like(hidden) if ctx.needs_input_grad[0] else None
        grad_weight = torch.zeros_like(weight, dtype=accumulate) if ctx.needs_input_grad[1] else None
        grad_bias = torch.zeros_like(bias, dtype=accumulate) if ctx.needs_input_grad[2] else None
        for start in range(0, len(hidden), chunk):
            rows = slice(start, start + chunk)
            upstream = grad_logprob[rows, None]
            logits, slope = _logits(hidden[rows], weight, bias, temperature, scale, softcap, accumulate)
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
            if grad_weight is not None:
                grad_weight += grad.t() @ hidden[rows]
        return (
            grad_hidden,
            grad_weight.to(weight.dtype) if grad_weight is not None else None,
            grad_bias.to(bias.dtype) if grad_bias is not None else None,
            *[None] * 6,
        )


def _logits(
    hidden: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    temperature: float,
    scale: float,
    softcap: float | None,
    accumulate: torch.dtype,
) -> tuple[Tensor, Tensor | float]:
    """Final logits, and the derivative of them by the linear layer's output."""
    logits = torch.nn.functional.linear(hidden, weight.to(hidden.dtype)).to(accumulate)
    if bias is not None:
        logits = logits + bias.to(accumulate)
    logits = logits.mul_(scale)
    if softcap is None:
        return logits.div_(temperature), scale / temperature
    bent = torch.tanh(logits / softcap)
    return bent * (softcap / temperature), (1 - bent * bent) * (scale / temperature)


def linear_logprob(
    hidden: Tensor,
    head: Head,
    targets: Tensor,
    *,
    temperature: float = 1.0,
    chunk: int = 256,
    entropy: bool = False,
) -> tuple[Tensor, Tensor | None]:
    """Log-probability of ``targets`` under ``softmax(head(hidden) / temperature)``.

    Args:
        hidden: ``[N, D]``.
        head: The output layer.
        targets: ``[N]`` int64.
        temperature: Of the softmax, above 0.
        chunk: Rows whose logits exist at a time.
        entropy: Also give the entropy in nats.

    Returns:
        ``[N]`` log-probs and ``[N]`` entropies or None, in float32 or the wider dtype of ``hidden``.
    """
    result: tuple[Tensor, Tensor | None] = _LinearLogprob.apply(  # type: ignore[no-untyped-call]
        hidden, head.weight, head.bias, targets, temperature, head.scale, head.softcap, chunk, entropy
    )
    return result
