"""How far the policy's next-token distributions are from a teacher's, in chunks, without ever holding all logits."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import dovetail as dt

if TYPE_CHECKING:
    from torch import Tensor

    from dovetail import Agent, LossTerms, Ragged, Rollouts

CHUNK = 256  # tokens whose logits are held at a time


class _Hidden:
    """An agent whose values are the hidden states themselves, so that the model's pass gives those."""

    def __init__(self, agent: Agent) -> None:
        self._agent = agent

    def __getattr__(self, name: str) -> Any:
        return getattr(self._agent, name)

    def value(self, hidden: Tensor) -> Tensor:
        return hidden


@dt.op
def divergence(
    policy: Agent, teacher: Agent, rows: Rollouts, beta: float, temperature: float, top_k: int | None
) -> LossTerms:
    """The generalised Jensen-Shannon divergence at each sampled token, with the policy's gradient.

    Vocabularies of different sizes are a UserError.
    """
    import torch
    from torch.utils.checkpoint import checkpoint

    from dovetail import LossTerms

    head, teacher_head = policy.head(), teacher.head()
    if len(head.weight) != len(teacher_head.weight):
        problem = (
            f"the policy has {len(head.weight)} tokens in its output layer, the teacher {len(teacher_head.weight)}"
        )
        raise dt.UserError(problem, hint="take a teacher of the same family, with the same vocabulary")
    ours = _hidden(policy, rows)
    with torch.no_grad():
        theirs = _hidden(teacher, rows)
    pieces = [torch.zeros(0, dtype=ours.values.dtype, device=ours.values.device)]
    for mine, other in zip(ours.values.split(CHUNK), theirs.values.split(CHUNK), strict=True):
        with torch.no_grad():
            target = log_probs(other.to(mine.device), teacher_head, temperature)
        # Logits are computed again in backward, which costs a product and saves a vocabulary for each token.
        pieces.append(checkpoint(_chunk, mine, head, target, beta, temperature, top_k, use_reentrant=False))
    terms = ours.with_values(torch.cat(pieces))
    return LossTerms(terms, metrics={"divergence": terms.detach()})


def _hidden(agent: Agent, rows: Rollouts) -> Ragged:
    """Before each sampled token, ``[N, D]``."""
    from dovetail.runtime.forward import forward

    return forward(_Hidden(agent), rows, ("values",))["values"]  # type: ignore[arg-type, no-any-return]


def _chunk(hidden: Tensor, head: Any, target: Tensor, beta: float, temperature: float, top_k: int | None) -> Tensor:
    mine = log_probs(hidden, head, temperature)
    if top_k is not None and top_k < target.shape[-1]:
        target, places = target.topk(top_k, -1)
        target, mine = target.log_softmax(-1), mine.gather(-1, places).log_softmax(-1)
    return generalised_jsd(mine, target, beta)


def log_probs(hidden: Tensor, head: Any, temperature: float) -> Tensor:
    """``[N, V]`` in at least float32, from ``[N, D]`` hidden states and a :class:`Head`."""
    import torch

    logits = torch.nn.functional.linear(hidden, head.weight, head.bias)
    logits = logits.to(torch.promote_types(logits.dtype, torch.float32)) * head.scale
    if head.softcap is not None:
        logits = head.softcap * torch.tanh(logits / head.softcap)
    return (logits / temperature).log_softmax(-1)


def generalised_jsd(student: Tensor, teacher: Tensor, beta: float) -> Tensor:
    """``β KL(P ‖ M) + (1-β) KL(Q ‖ M)``, ``M = βP + (1-β)Q``; P the teacher's, Q the student's, from log-probs ``[N, V]``.

    Agarwal et al. 2024 (arXiv 2306.13649), equation 1. At its limits, as its authors use them: β = 0 is the forward
    ``KL(P ‖ Q)``, β = 1 the reverse ``KL(Q ‖ P)``.
    """
    import math

    import torch

    def kl(p: Tensor, q: Tensor) -> Tensor:
        return (p.exp() * (p - q)).sum(-1)

    if beta == 0:
        return kl(teacher, student)
    if beta == 1:
        return kl(student, teacher)
    mixed = torch.logaddexp(teacher + math.log(beta), student + math.log1p(-beta))
    return beta * kl(teacher, mixed) + (1 - beta) * kl(student, mixed)
