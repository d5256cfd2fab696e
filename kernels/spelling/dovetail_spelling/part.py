"""What parts that read tokens as text have in common: where they learn what the tokens spell."""

from __future__ import annotations

import functools
from typing import Any

import attrs

from dovetail import UserError, hookimpl
from dovetail_spelling.pieces import pieces
from dovetail_spelling.table import Table


@attrs.define(eq=False, slots=False)
class Spelled:
    """Base of rewards that look at what tokens spell; a subclass defines ``fold`` or ``fold_bytes``.

    In a run of the trainer the tokenizer is the policy's; elsewhere it must be given.

    Args:
        tokenizer: A tokenizer of transformers, or the name or folder of one; null takes the policy's.
    """

    tokenizer: Any = attrs.field(default=None, kw_only=True)

    def fold(self, text: str) -> bytes:
        """From text to codes; called for each token of the vocabulary."""
        raise NotImplementedError(f"{type(self).__name__} defines neither fold(text) nor fold_bytes(piece)")

    def fold_bytes(self, piece: bytes) -> bytes:
        """The codes of one token. One that holds a part of a character is folded letter by letter, its other bytes kept."""
        try:
            return self.fold(piece.decode())
        except UnicodeDecodeError:
            return b"".join(bytes([byte]) if byte >= 0x80 else self.fold(chr(byte)) for byte in piece)

    @hookimpl
    def on_run_start(self, run: Any) -> None:
        """Learn the policy's tokenizer."""
        if self.tokenizer is None:
            self.__dict__.setdefault("_tokenizer", run.compiled.plan.context.agents["policy"].tokenizer)

    @functools.cached_property
    def _tokenizer(self) -> Any:
        if self.tokenizer is None:
            hint = "pass tokenizer=<a tokenizer, or the name of one>; in a run of dt.Trainer it is the policy's"
            raise UserError(f"{type(self).__name__} does not know what the tokens spell", hint=hint)
        if isinstance(self.tokenizer, str):
            from transformers import AutoTokenizer

            return AutoTokenizer.from_pretrained(self.tokenizer)
        return self.tokenizer

    @functools.cached_property
    def pieces(self) -> list[bytes]:
        """The bytes of each token."""
        return pieces(self._tokenizer)

    @functools.cached_property
    def table(self) -> Table:
        """The codes of each token."""
        return Table.of(self.folded)

    @functools.cached_property
    def folded(self) -> list[bytes]:
        """The codes of each token, as bytes."""
        return [self.fold_bytes(piece) for piece in self.pieces]

    def tables(self) -> dict[str, Any]:
        """What the row function reads: ``begins`` and ``codes``."""
        return {"begins": self.table.begins, "codes": self.table.codes}

    @property
    def known(self) -> int:
        """How many tokens have an entry in the tables."""
        return self.table.begins.shape[0] - 1
