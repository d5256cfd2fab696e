"""Dynamic sampling: groups that teach nothing are replaced by samples of further prompts."""

from __future__ import annotations

import copy
import statistics
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from dovetail.compiler.compile import Compiled
from dovetail.errors import RecipeError
from dovetail.graph.ops import SAMPLERS
from dovetail.ragged import Ragged
from dovetail.rollouts import Rollouts
from dovetail.runtime.collect import Collected
from dovetail_trainer.joining import joined

SEED_STRIDE = 99_999_989  # between the draws of a step, far above the number of steps


def draws_of(compiled: Compiled) -> int:
    """Batches of prompts that a step may draw, as the recipe's ``generate`` says; a RecipeError if it has several."""
    generators = [node for node in compiled.graph if node.op.name in SAMPLERS]
    draws = max((node.options.get("draws", 1) for node in generators), default=1)
    if draws > 1 and len(generators) > 1:
        where = [line for node in generators for line in node.where(node.name)]
        raise RecipeError("draws is for a recipe that samples once, and this one samples twice", where=where)
    return draws


def collect(compiled: Compiled, data: Callable[[int], Mapping[str, Any]], step: int) -> tuple[Collected, Rollouts]:
    """The first half of a step: what it learns from, and all that was drawn for it.

    A group teaches nothing if no valid row of it has an advantage: all rewards alike. Such groups are dropped and
    further batches drawn, until there are as many groups as in one batch or ``draws`` batches were drawn; if no group
    teaches anything, the first batch stays. A step owns ``draws`` batches of the data, used or not, so that a resumed
    run sees what an unbroken one sees. Metrics are means over all that was drawn.
    """
    draws = draws_of(compiled)
    first = compiled.collect(**data(step * draws))
    if draws == 1:
        return first, first.rollouts
    wanted, pieces, kept = len(torch.unique(first.rollouts.groups)), [first], [_teaching(first)]
    while sum(map(len, kept)) < wanted and len(pieces) < draws:
        seed = first.seed + SEED_STRIDE * len(pieces)
        pieces.append(compiled.collect(seed=seed, **data(step * draws + len(pieces))))
        kept.append(_teaching(pieces[-1])[: wanted - sum(map(len, kept))])
    rows = [torch.isin(piece.rollouts.groups, groups) for piece, groups in zip(pieces, kept, strict=True)]
    if not any(map(len, kept)):
        rows[0] = torch.ones_like(rows[0])
    whole = copy.copy(first)
    whole.values = joined([piece.values for piece in pieces], rows)
    whole.rollouts, whole.valid = joined([p.rollouts for p in pieces], rows), joined([p.valid for p in pieces], rows)
    whole.seconds = defaultdict(float, sum((Counter(piece.seconds) for piece in pieces), Counter()))
    drawn = wanted * len(pieces)
    whole.metrics = {
        **{name: statistics.fmean(piece.metrics[name] for piece in pieces) for name in first.metrics},
        "tokens": sum(piece.metrics["tokens"] for piece in pieces),
        "draws": float(len(pieces)),
        "groups_without_signal": 1 - sum(len(_teaching(piece)) for piece in pieces) / drawn,
    }
    everything = [torch.ones_like(taken) for taken in rows]
    return whole, joined([piece.rollouts for piece in pieces], everything)


def _teaching(collected: Collected) -> Tensor:
    """Numbers of the groups in which a valid row has an advantage, in order; all, without an estimator."""
    taught = collected.valid
    for node in collected.nodes:
        if node.op.name == "advantages":
            credit: Ragged = collected.outputs(node.name)["out"]
            taught = taught & (credit.map(torch.abs).max() > 0)
    numbers: Tensor = torch.unique(collected.rollouts.groups[taught])
    return numbers
