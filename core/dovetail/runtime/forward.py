"""The model-call layer: the only place that knows of padding. Rollouts in, per-token values out."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any, Protocol

import torch
from torch import Tensor

from dovetail.errors import DataError
from dovetail.messages import Task
from dovetail.ragged import Ragged
from dovetail.rollouts import Generated, Rollouts
from dovetail.runtime.linear_logprob import Head, linear_logprob
from dovetail.runtime.packing import Bundle, Packed, bundles
from dovetail.runtime.ranks import Alone
from dovetail.sampling import Sampling

HEAD_LOGITS = 2**24  # of a chunk: 64 MB in float32, where products are fast and memory is small


class Actor(Protocol):
    """What the runtime asks of an agent."""

    trainable: bool
    version: int

    def encode(self, tasks: Sequence[Task]) -> Ragged: ...
    def decode(self, tokens: list[int]) -> str: ...
    def generate(self, prompts: Ragged, samples: int, sampling: Sampling, seeds: Tensor) -> Generated: ...
    def hidden(self, tokens: Tensor, mask: Tensor | None = None, positions: Tensor | None = None) -> Tensor: ...
    def head(self) -> Head: ...
    def value(self, hidden: Tensor) -> Tensor: ...
    @property
    def device(self) -> torch.device: ...
    @property
    def packing_width(self) -> int | None: ...


Outputs = dict[str, Any]


def forward(actor: Actor, rollouts: Rollouts, wanted: Collection[str], together: list[Bundle] | None = None) -> Outputs:
    """One pass over whole sequences: for each name ``wanted`` a Ragged over the sampled tokens.

    Names are ``logprobs``, ``entropy`` and ``values``, which also gives ``final`` ``[B]``. ``together`` says which rows
    stand behind one prompt; by default it is what is cheapest, where the model allows it. A row that begins with a
    sampled token is a DataError: nothing predicts it.
    """
    device = actor.device
    tokens = rollouts.tokens.to(device)
    sampled = rollouts.sampled_mask.to(device)
    unread = tokens.row_ids[sampled & (tokens.positions == 0)]
    if len(unread):
        raise DataError(f"sequence {int(unread[0])} begins with a sampled token: nothing before it predicts it")
    packed = Packed(tokens, bundles(rollouts, actor.packing_width) if together is None else together)
    hidden = actor.hidden(packed.tokens, packed.mask, packed.positions).flatten(0, 1)
    before = packed.place[sampled.nonzero().squeeze(1) - 1]
    shape = tokens.where(sampled)
    result: Outputs = {}
    if "logprobs" in wanted or "entropy" in wanted:
        temperature = rollouts.sampling.scoring_temperature if rollouts.sampling else 1.0
        head = actor.head()
        chunk, want = max(256, HEAD_LOGITS // len(head.weight)), "entropy" in wanted
        logprobs, entropy = linear_logprob(
            hidden[before], head, shape.values, temperature=temperature, chunk=chunk, entropy=want
        )
        result["logprobs"] = shape.with_values(logprobs)
        if entropy is not None:
            result["entropy"] = shape.with_values(entropy)
    if "values" in wanted:
        result["values"] = shape.with_values(actor.value(hidden[before]))
        result["final"] = actor.value(hidden[packed.place[tokens.offsets[1:] - 1]])
    return result


def forward_all(
    actor: Actor, rollouts: Rollouts, wanted: Collection[str], budget: int, ranks: Alone | None = None
) -> Outputs:
    """As :func:`forward` without gradients, in micro-batches; results in the order of the rows."""
    work = torch.no_grad()(lambda batch: forward(actor, rollouts.select(batch.rows), wanted, batch.together))
    done = (ranks or Alone()).each(work, rollouts, budget, actor.packing_width)
    back = torch.argsort(torch.cat([torch.zeros(0, dtype=torch.int64), *(rows for rows, _ in done)]))
    return {name: _reorder([piece[name] for _, piece in done], back) for name in (done[0][1] if done else ())}


def _reorder(pieces: list[Any], back: Tensor) -> Any:
    if isinstance(pieces[0], Ragged):
        return Ragged.cat(pieces).select(back)
    return torch.cat(pieces)[back.to(pieces[0].device)]
