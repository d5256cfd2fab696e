"""A vocabulary that is given as a list: for tests, examples and benchmarks of parts that read text."""

from __future__ import annotations

from collections.abc import Sequence


class Listed:
    """As much of a tokenizer as :func:`~dovetail_spelling.pieces` asks for: token ``i`` spells ``texts[i]``.

    Args:
        texts: Of the tokens.
        size: Of the vocabulary, if it is larger: the texts come again.
    """

    added_tokens_decoder: dict[int, object] = {}
    all_special_ids: tuple[int, ...] = ()

    def __init__(self, texts: Sequence[str], size: int | None = None) -> None:
        self._texts = tuple(texts)
        self._size = len(self._texts) if size is None else size

    def __len__(self) -> int:
        return self._size

    def convert_ids_to_tokens(self, ids: Sequence[int]) -> list[str]:
        return [self._texts[number % len(self._texts)] for number in ids]
