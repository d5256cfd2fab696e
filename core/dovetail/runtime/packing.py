"""How rows meet the model: cut into micro-batches, and rows that share a prompt laid into one sequence behind it."""

from __future__ import annotations

import functools
import itertools

import attrs
import torch
from torch import Tensor

from dovetail.ragged import Ragged, lengths_to_offsets
from dovetail.rollouts import Rollouts

WORTH_SHARING = 0.8  # of the cost apart; a mask and longer lines cost as well, and all rows of a micro-batch pay
BATCH_COST = 1 / 16  # of a micro-batch, in tokens of its budget: operations that take the same time however few rows


@attrs.frozen
class Bundle:
    """Rows laid one after the other behind their common prompt."""

    rows: tuple[int, ...]
    prompt: int  #: tokens that they share; 0 for a row alone
    length: int  #: tokens in all, the prompt counted once


def _cost(length: int, count: int, width: int) -> float:
    """Multiplications in a transformer block of ``width``, in units of ``4 * width``, for ``count`` rows in a line.

    A token's matrix products cost as much as attending to ``6 * width`` others. A row alone is spared half of its
    attention by causality; a bundle compares every token with every other.
    """
    return length * 6 * width + length**2 / (1 if count > 1 else 2)


def bundles(rollouts: Rollouts, width: int | None, *, by_group: bool = False) -> list[Bundle]:
    """The cheapest bundles of equal size for the rows of each prompt, in a model whose hidden states have ``width``.

    Without a width every row is alone; ``by_group`` bundles no rows of different groups.
    """
    lengths = rollouts.tokens.lengths.tolist()
    if width is None:
        return [Bundle((row,), 0, length) for row, length in enumerate(lengths)]
    alike: dict[tuple[bytes, int], list[int]] = {}
    prompts = rollouts.prompts.lengths.tolist()
    tokens = rollouts.tokens.values.cpu().numpy()
    groups = rollouts.groups.tolist() if by_group else [0] * len(rollouts)
    for row, start in enumerate(rollouts.tokens.offsets[:-1].tolist()):
        alike.setdefault((tokens[start : start + prompts[row]].tobytes(), groups[row]), []).append(row)
    found: list[Bundle] = []
    for rows in alike.values():
        rows.sort(key=lengths.__getitem__, reverse=True)
        prompt = prompts[rows[0]]
        size = _size(prompt, tuple(lengths[row] for row in rows), width)
        found += [_bundle(rows[start : start + size], prompt, lengths) for start in range(0, len(rows), size)]
    return found


@functools.lru_cache(maxsize=1024)
def _size(prompt: int, lengths: tuple[int, ...], width: int) -> int:
    """Rows in each of the cheapest bundles."""
    done = list(itertools.accumulate((length - prompt for length in lengths), initial=0))
    costs, count = {1: sum(_cost(length, 1, width) for length in lengths)}, len(lengths)
    for size in sorted({min(1 << power, count) for power in range(1, count.bit_length() + 1)} - {1}) if prompt else ():
        pieces = [(start, min(start + size, count)) for start in range(0, count, size)]
        costs[size] = sum(_cost(prompt + done[end] - done[start], end - start, width) for start, end in pieces)
    cheapest = min(costs, key=costs.__getitem__)
    return cheapest if costs[cheapest] < WORTH_SHARING * costs[1] else 1


def _bundle(rows: list[int], prompt: int, lengths: list[int]) -> Bundle:
    shared = prompt if len(rows) > 1 else 0
    return Bundle(tuple(rows), shared, shared + sum(lengths[row] - shared for row in rows))


def cut(lengths: Tensor, budget: int, lines: Tensor | None = None) -> list[Tensor]:
    """Cut units into micro-batches whose padded size stays within ``budget`` tokens; each is in exactly one.

    They are sorted by ``lengths`` ``[U]``, tokens of their longest line, and parted where that spares padding of more
    than a micro-batch costs; one larger than the budget goes alone. ``lines`` ``[U]`` int64 is how many each has.
    """
    order = torch.argsort(lengths, descending=True, stable=True)
    widths, done = lengths[order], lengths_to_offsets(torch.ones_like(lengths) if lines is None else lines[order])
    batches, waiting = [], [(0, len(order))] if len(order) else []
    while waiting:
        start, end = waiting.pop()
        spared = (widths[start] - widths[start:end]) * (done[end] - done[start:end])
        fitting = int(torch.searchsorted(done, done[start] + budget // max(int(widths[start]), 1), right=True)) - 1
        if int(spared.max()) > budget * BATCH_COST:
            waiting += [(start + int(spared.argmax()), end), (start, start + int(spared.argmax()))]
        else:
            middle = max(start + 1, min(fitting, end))
            batches.append(order[start:middle])
            waiting += [(middle, end)] if middle < end else []
    return batches


@attrs.frozen(eq=False)
class MicroBatch:
    """Rows that meet the model together."""

    rows: Tensor  #: ``[R]`` int64 indices
    together: list[Bundle]  #: of these rows, counted from 0


def micro_batches(rollouts: Rollouts, budget: int, width: int | None, *, by_group: bool = False) -> list[MicroBatch]:
    """All rows, cut so that each micro-batch's padded size is within ``budget`` tokens.

    Bundles stay together; ``by_group`` groups do, and the rows keep their order.
    """
    units: dict[int, list[Bundle]] = {}
    for place, bundle in enumerate(bundles(rollouts, width, by_group=by_group)):
        units.setdefault(int(rollouts.groups[bundle.rows[0]]) if by_group else place, []).append(bundle)
    parts = list(units.values())
    sizes = torch.tensor([[max(b.length for b in part), len(part)] for part in parts], dtype=torch.int64).view(-1, 2)
    found = []
    for batch in cut(sizes[:, 0], budget, sizes[:, 1]):
        chosen = [bundle for unit in batch.tolist() for bundle in parts[unit]]
        rows = [row for bundle in chosen for row in bundle.rows]
        rows = sorted(rows) if by_group else rows
        place_of = {row: place for place, row in enumerate(rows)}
        together = [attrs.evolve(bundle, rows=tuple(place_of[row] for row in bundle.rows)) for bundle in chosen]
        found.append(MicroBatch(torch.tensor(rows), together))
    return found


class Packed:
    """The rows as one call of the model sees them.

    Attributes:
        tokens: ``[P, W]`` int64, a bundle a line, padded on the right with 0.
        mask: ``[P, 1, W, W]`` bool of which token attends to which; None if no bundle has several rows. Causality then
            says it all: the padding is on the right, where no token looks.
        positions: ``[P, W]`` int64, a token's place in its own row; None if that is its column.
        place: ``[N]`` int64, for each token of the rows, its place among the ``P * W``.
    """

    def __init__(self, tokens: Ragged, together: list[Bundle]) -> None:
        device = tokens.values.device
        rows = torch.tensor([row for bundle in together for row in bundle.rows], device=device)
        sizes = torch.tensor([len(bundle.rows) for bundle in together], device=device)
        width = max((bundle.length for bundle in together), default=0)
        line = torch.repeat_interleave(torch.arange(len(together), device=device), sizes)
        prompt = torch.tensor([bundle.prompt for bundle in together], device=device)[line]
        ends = lengths_to_offsets(tokens.lengths[rows] - prompt)[:-1]
        start = ends - ends[lengths_to_offsets(sizes)[:-1]][line]
        # From here on per token: the line, where the row's own tokens begin, and whether this is one of them.
        line, prompt, start, branch = (
            tokens.spread(torch.empty_like(rows).index_copy_(0, rows, column)).values
            for column in (line, prompt, start, torch.arange(1, len(rows) + 1, device=device))
        )
        own = tokens.positions >= prompt
        self.place = line * width + tokens.positions + torch.where(own, start, 0)
        self.mask: Tensor | None = None
        self.positions: Tensor | None = None
        self.tokens = self._laid(tokens.values.long(), len(together), width, 0)
        if len(rows) > len(together):
            self.positions = self._laid(tokens.positions, len(together), width, 0)
            self.mask = _attention(self._laid(torch.where(own, branch, 0), len(together), width, -1))

    def _laid(self, values: Tensor, lines: int, width: int, fill: int) -> Tensor:
        return values.new_full((lines * width,), fill).index_copy_(0, self.place, values).view(lines, width)


def _attention(branch: Tensor) -> Tensor:
    """``[P, 1, W, W]``: what came before, if it is of the prompt (branch 0) or of one's own row (padding is -1)."""
    width = branch.shape[1]
    before = torch.ones((width, width), dtype=torch.bool, device=branch.device).tril()
    related = (branch[:, None, :] == 0) | (branch[:, None, :] == branch[:, :, None])
    return (before & related)[:, None]
