"""Tables from token ids to codes: what a kernel reads in the place of text."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import attrs

if TYPE_CHECKING:
    from torch import Tensor

    from dovetail import Ragged

#: The code of everything that is no letter.
SEPARATOR = 0


@attrs.frozen(eq=False)
class Table:
    """For each token its codes, numbers below 256; an id beyond the table spells nothing."""

    begins: Tensor  #: ``[V + 1]`` int32
    codes: Tensor  #: ``[C]`` uint8, those of token ``v`` from ``begins[v]`` on

    @classmethod
    def of(cls, folded: Sequence[bytes]) -> Table:
        """Lay the codes of all tokens one after another."""
        import numpy as np
        import torch

        lengths = np.fromiter(map(len, folded), dtype=np.int64, count=len(folded))
        begins = np.concatenate([[0], lengths.cumsum()]).astype(np.int32)
        codes = np.frombuffer(b"".join(folded) or b"\0", dtype=np.uint8).copy()
        return cls(torch.from_numpy(begins), torch.from_numpy(codes))

    def spell(self, tokens: Ragged) -> Ragged:
        """Rows of codes, int64, for rows of token ids."""
        import torch

        from dovetail import Ragged

        known = len(self.begins) - 1
        ids = tokens.values.clamp(max=known)
        begins = self.begins.long().to(ids.device)
        ends = torch.cat([begins[1:], begins[-1:]])
        start = begins[ids]
        lengths = ends[ids] - start
        shift = torch.repeat_interleave(start - (lengths.cumsum(0) - lengths), lengths)
        codes = self.codes.to(ids.device)[shift + torch.arange(len(shift), device=ids.device)].long()
        return Ragged.from_lengths(codes, tokens.with_values(lengths).sum())
