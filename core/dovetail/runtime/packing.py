"""How rows meet the model: cut into micro-batches, and rows that share a prompt laid into one sequence behind it."""

from __future__ import annotations

import attrs
import torch
from torch import Tensor

from dovetail.ragged import Ragged, lengths_to_offsets
from dovetail.rollouts import Rollouts

WORTH_SHARING = 0.8  # of the cost apart; a mask and longer lines cost as well, and all rows of a micro-batch pay


@attrs.frozen
class Bundle:
    """Rows laid one after the other behind their common prompt.

    Args:
        rows: Indices.
        prompt: Tokens that they share; 0 for a row alone.
        length: Tokens in all, the prompt counted once.
    """

    rows: tuple[int, ...]
    prompt: int
    length: int

    def cost(self, width: int) -> float:
        """Multiplications in a transformer block of ``width``, in units of ``4 * width``.

        A token's matrix products cost as much as attending to ``6 * width`` others. A row alone is spared half of its
        attention by causality; a bundle compares every token with every other.
        """
        return self.length * 6 * width + self.length**2 / (1 if len(self.rows) > 1 else 2)


def bundles(rollouts: Rollouts, width: int | None, *, by_group: bool = False) -> list[Bundle]:
    """The cheapest bundles of equal size for the rows of each prompt.

    Args:
        rollouts: The rows.
        width: Of the model's hidden states; None puts every row alone.
        by_group: Bundle no rows of different groups.
    """
    lengths = rollouts.tokens.lengths.tolist()
    alone = [Bundle((row,), 0, length) for row, length in enumerate(lengths)]
    if width is None:
        return alone
    alike: dict[tuple[bytes, int], list[int]] = {}
    prompts = prompt_lengths(rollouts).tolist()
    tokens = rollouts.tokens.values.cpu().numpy()
    groups = rollouts.groups.tolist() if by_group else [0] * len(rollouts)
    for row, start in enumerate(rollouts.tokens.offsets[:-1].tolist()):
        alike.setdefault((tokens[start : start + prompts[row]].tobytes(), groups[row]), []).append(row)
    found: list[Bundle] = []
    for rows in alike.values():
        prompt = prompts[rows[0]]
        rows.sort(key=lengths.__getitem__, reverse=True)
        choices = [[alone[row] for row in rows]]
        for size in sorted({min(1 << power, len(rows)) for power in range(1, len(rows).bit_length() + 1)} - {1}):
            pieces = [rows[start : start + size] for start in range(0, len(rows), size)]
            choices.append([_bundle(piece, prompt, lengths) if len(piece) > 1 else alone[piece[0]] for piece in pieces])
        costs = [sum(bundle.cost(width) for bundle in choice) for choice in choices]
        cheapest = min(range(len(choices)), key=costs.__getitem__)
        found += choices[cheapest if prompt and costs[cheapest] < WORTH_SHARING * costs[0] else 0]
    return found


def _bundle(rows: list[int], prompt: int, lengths: list[int]) -> Bundle:
    return Bundle(tuple(rows), prompt, prompt + sum(lengths[row] - prompt for row in rows))


def prompt_lengths(rollouts: Rollouts) -> Tensor:
    """``[B]`` int64, tokens of each row before its first sampled one."""
    tokens, sampled = rollouts.tokens, rollouts.sampled_mask
    place = torch.where(sampled, tokens.positions, tokens.lengths[tokens.row_ids])
    return tokens.lengths.scatter_reduce(0, tokens.row_ids, place, "amin")


def cut(lengths: Tensor, budget: int, lines: Tensor | None = None) -> list[Tensor]:
    """Cut units into micro-batches whose padded size stays within ``budget`` tokens; each is in exactly one.

    They are sorted by ``lengths`` ``[U]``, tokens of their longest line, so that little is padded; one larger than the
    budget goes alone. ``lines`` ``[U]`` int64 is how many each has, one if it is not given.
    """
    order = torch.argsort(lengths, descending=True, stable=True)
    last = torch.arange(1, len(order) + 1) if lines is None else lines[order].cumsum(0)
    batches, start, done = [], 0, 0
    while start < len(order):
        room = done + budget // max(int(lengths[order[start]]), 1)
        end = max(start + 1, int(torch.searchsorted(last, room, right=True)))
        batches.append(order[start:end])
        start, done = end, int(last[end - 1])
    return batches


def micro_batches(rollouts: Rollouts, budget: int, width: int | None, *, by_group: bool = False) -> list[Tensor]:
    """Row indices of each micro-batch, its padded size within ``budget`` tokens.

    Bundles stay together; ``by_group`` groups do, and the rows keep their order.
    """
    units: dict[int, list[Bundle]] = {}
    for place, bundle in enumerate(bundles(rollouts, width, by_group=by_group)):
        units.setdefault(int(rollouts.groups[bundle.rows[0]]) if by_group else place, []).append(bundle)
    parts = list(units.values())
    sizes = torch.tensor([[max(b.length for b in part), len(part)] for part in parts], dtype=torch.int64).view(-1, 2)
    rows = [
        [row for unit in batch.tolist() for b in parts[unit] for row in b.rows]
        for batch in cut(sizes[:, 0], budget, sizes[:, 1])
    ]
    return [torch.tensor(sorted(batch) if by_group else batch) for batch in rows]


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
