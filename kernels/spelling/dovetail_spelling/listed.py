"""A vocabulary that is given as a list: for tests, examples and benchmarks of parts that read text."""

from __future__ import annotations

from collections.abc import Sequence

#: Pieces of English text. As a vocabulary of examples and benchmarks they make a text of common words and parts of words,
#: in which a phrase comes together now and then, as in a completion.
ENGLISH = (
    " the", ",", " and", ".", " of", " to", " in", " a", "ing", " is", " that", "s", " it", " for", " was", "\n", " as",
    " with", "ed", " be", " by", " not", " he", " I", "er", " this", " are", " or", "ly", " his", " from", " at", " which",
    "al", " but", " have", " an", " had", "ion", " they", " you", " were", " there", "fore", " con", "clus", " AI", "'m",
    " sor", "ry", " bad", " word", " put", "ane", "p", "\\boxed", "{", "2", "}", "ation",
)  # fmt: skip


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
