"""The score in torch, words as columns."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from dovetail_sentiment import lexicon as lex

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from dovetail import Ragged

NEGATED = -0.74


def scores(codes: Ragged, lexicon: Mapping[bytes, lex.Word], alpha: float) -> Tensor:
    """``[B]`` float32 for rows of codes."""
    import torch

    rows, hashes = _hashed(codes, max(map(len, lexicon), default=0))
    known, order = (each.to(hashes.device) for each in lex.sorted_hashes(lexicon))
    place = torch.searchsorted(known, hashes).clamp(max=len(known) - 1)
    hit = known[place] == hashes
    entries = list(lexicon.values())

    def column(values: list[float], dtype: torch.dtype) -> Tensor:
        return torch.where(hit, torch.tensor(values, dtype=dtype, device=hashes.device)[order[place]], 0)

    valence = column([word.valence for word in entries], torch.float32)
    boost = column([word.boost for word in entries], torch.float32)
    flags = column([word.flags for word in entries], torch.int64)
    value = _weighed(rows, valence, boost, flags)
    buts = torch.cumsum((flags & lex.BUT > 0).long(), 0)
    first = torch.searchsorted(rows, torch.arange(len(codes), device=rows.device))
    before_row = torch.cat([buts.new_zeros(1), buts])[first]
    seen = buts - before_row[rows] if len(rows) else buts
    has_but = torch.zeros(len(codes), dtype=torch.bool, device=rows.device).index_fill(
        0, rows[flags & lex.BUT > 0], True
    )
    factor = torch.where(has_but[rows], torch.where(seen > 0, 1.5, 0.5), 1.0)
    total = torch.zeros(len(codes), device=rows.device).index_add(0, rows, value * factor)
    return total / (total * total + alpha).sqrt()


def _hashed(codes: Ragged, longest: int) -> tuple[Tensor, Tensor]:
    """The row of each word, and its hash; 0 for a word longer than any of the lexicon."""
    import torch

    letter = codes.values != 0
    before = torch.cat([letter.new_zeros(1), letter[:-1]])[: len(letter)]
    start = (letter & (~before | (codes.positions == 0))).nonzero().squeeze(1)
    ends_row = codes.offsets[1:][codes.row_ids[start]]
    value = torch.full_like(start, lex._signed(lex.BASIS, 64))
    alive = torch.ones_like(start, dtype=torch.bool)
    padded = torch.cat([codes.values, codes.values.new_zeros(1)])
    for step in range(longest + 1):
        at = start + step
        code = torch.where(at < ends_row, padded[at.clamp(max=len(codes.values))], 0)
        alive &= code != 0
        value = torch.where(alive, (value ^ code) * lex.PRIME, value)
    return codes.row_ids[start], torch.where(alive, 0, value)


def _weighed(rows: Tensor, valence: Tensor, boost: Tensor, flags: Tensor) -> Tensor:
    """The valence of each word behind the three before it."""
    import torch

    def back(values: Tensor, steps: int, missing: float) -> Tensor:
        shifted = torch.cat([values.new_full((steps,), missing), values])[: len(values)]
        same = torch.cat([rows.new_full((steps,), -1), rows])[: len(rows)] == rows
        return torch.where(same, shifted, missing)

    def has(what: Tensor, flag: int) -> Tensor:
        return (what & flag) > 0

    a, b, c = (back(flags, steps, lex.RATED) for steps in (1, 2, 3))
    boosts = [back(boost, steps, 0.0) for steps in (1, 2, 3)]
    value = torch.where(has(a, lex.NO) | has(b, lex.NO) | (has(c, lex.NO) & has(a, lex.OR)), valence * NEGATED, valence)
    fade = (1.0, 0.95, 0.9)
    stronger = [None, has(b, lex.NEVER) & has(a, lex.SO), (has(c, lex.NEVER) & has(b, lex.SO)) | has(a, lex.SO)]
    sure = [None, has(b, lex.WITHOUT) & has(a, lex.DOUBT), has(c, lex.WITHOUT) & has(a | b, lex.DOUBT)]
    for step, before in enumerate((a, b, c)):
        moved = value + fade[step] * torch.where(value < 0, -boosts[step], boosts[step])
        negated = torch.where(has(before, lex.NEGATES), moved * NEGATED, moved)
        if step:
            negated = torch.where(sure[step], moved, negated)
            negated = torch.where(stronger[step], moved * 1.25, negated)
        value = torch.where(has(before, lex.RATED), value, negated)
    value = torch.where(has(a, lex.LEAST) & ~has(b, lex.AT), value * NEGATED, value)
    behind = torch.cat([flags[1:], flags.new_zeros(1)])[: len(flags)]
    same = torch.cat([rows[1:], rows.new_full((1,), -1)])[: len(rows)] == rows
    is_no_before_rated = has(flags, lex.NO) & has(behind, lex.RATED) & same
    counts = has(flags, lex.RATED) & (boost == 0) & ~is_no_before_rated
    return torch.where(counts, value, 0.0)
