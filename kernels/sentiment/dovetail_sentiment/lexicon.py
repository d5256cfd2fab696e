"""VADER's lexicon as a hash table that a kernel can read."""

from __future__ import annotations

import functools
import re
from collections.abc import Mapping
from typing import Any

import attrs

NEGATES, BUT, NO, NEVER, SO, WITHOUT, DOUBT, LEAST, AT, OR, RATED = (1 << place for place in range(11))
_ROLES = {
    BUT: ("but",), NO: ("no",), NEVER: ("never",), SO: ("so", "this"), WITHOUT: ("without",), DOUBT: ("doubt",),
    LEAST: ("least",), AT: ("at", "very"), OR: ("or", "nor"),
}  # fmt: skip
BASIS, PRIME, MASK = 0xCBF29CE484222325, 0x100000001B3, (1 << 64) - 1


@attrs.frozen
class Word:
    """What is known of a word: its valence, what it adds to the words behind it, and what else it is."""

    valence: float = 0.0
    boost: float = 0.0
    flags: int = 0


def fold(text: str) -> bytes:
    """Codes of a text: letters and digits in lower case; apostrophes and single hyphens go, all else separates."""
    plain = re.sub(r"['’\u2010\u2011]|(?<!-)-(?!-)", "", text.lower())
    return re.sub(r"[\W_]+", "\0", plain).encode()


@functools.cache
def words(extra: tuple[tuple[str, float], ...] = ()) -> Mapping[bytes, Word]:
    """Every word of the lexicon by its codes; ``extra`` words and valences go before VADER's."""
    from vaderSentiment import vaderSentiment as vader

    found: dict[bytes, dict[str, Any]] = {}

    def note(word: str, **facts: Any) -> None:
        code = fold(word)
        if code and b"\0" not in code:
            entry = found.setdefault(code, {"flags": 0})
            flags = entry["flags"] | facts.pop("flags", 0)
            entry.update(**facts, flags=flags)

    for word, valence in [*_rated(vader), *extra]:
        note(word, valence=valence, flags=RATED)
    for word, boost in vader.BOOSTER_DICT.items():
        note(word, boost=boost)
    for word in vader.NEGATE:
        note(word, flags=NEGATES)
    for flag, members in _ROLES.items():
        for word in members:
            note(word, flags=flag)
    return {code: Word(**facts) for code, facts in found.items()}


def _rated(vader: Any) -> list[tuple[str, float]]:
    """Words without the emoticons; of two that fold alike, the one without signs comes last and wins."""
    rated = vader.SentimentIntensityAnalyzer().lexicon.items()
    plain = [(word, valence) for word, valence in rated if re.fullmatch(r"\w[\w'-]*\w|\w", word)]
    return sorted(plain, key=lambda entry: len(entry[0]), reverse=True)


def hash_of(code: bytes) -> int:
    """64-bit FNV-1a (Fowler, Noll and Vo)."""
    value = BASIS
    for byte in code:
        value = (value ^ byte) * PRIME & MASK
    return value


def hash_table(lexicon: Mapping[bytes, Word]) -> dict[str, Any]:
    """Open addressing by the low bits of the hash, at most half full: ``keys`` (low and high half), and what is known."""
    import torch

    size = 1 << (2 * len(lexicon)).bit_length()
    keys = torch.zeros(2 * size, dtype=torch.int32)
    valences, boosts = torch.zeros(size), torch.zeros(size)
    flags = torch.full((size,), -1, dtype=torch.int32)
    hashes = {hash_of(code): word for code, word in lexicon.items()}
    assert len(hashes) == len(lexicon), "two words of the lexicon share a hash"
    for value, word in hashes.items():
        slot = value & (size - 1)
        while flags[slot] >= 0:
            slot = (slot + 1) & (size - 1)
        keys[2 * slot], keys[2 * slot + 1] = _signed(value & 0xFFFFFFFF, 32), _signed(value >> 32, 32)
        valences[slot], boosts[slot], flags[slot] = word.valence, word.boost, word.flags
    return {"keys": keys, "valences": valences, "boosts": boosts, "flags": flags}


def _signed(value: int, bits: int) -> int:
    return value - (1 << bits) if value >> (bits - 1) else value


def sorted_hashes(lexicon: Mapping[bytes, Word]) -> Any:
    """The hashes as signed numbers in their order, and the place of each word: for the torch reference."""
    import torch

    return torch.tensor([_signed(hash_of(code), 64) for code in lexicon], dtype=torch.int64).sort()
