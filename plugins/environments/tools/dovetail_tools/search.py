"""Search over a local corpus by BM25."""

from __future__ import annotations

import functools
import math
import re
from collections import Counter, defaultdict
from collections.abc import Sequence
from typing import Any

import attrs

from dovetail import DataError
from dovetail.jsonl import read_jsonl
from dovetail_tools.tool import ToolError

_WORD = re.compile(r"\w+")
_SHOWN = 1000  # characters of a text
MOST = 20  # texts of an answer


@attrs.frozen
class Document:
    """A text with its title."""

    title: str
    text: str


class Index:
    """Texts that can be searched by words.

    Okapi BM25 as in Robertson and Zaragoza 2009, *The Probabilistic Relevance Framework*, equation 3.15, with the idf
    ``ln(1 + (N - n + 0.5) / (n + 0.5))`` that is never negative (Lucene's).
    """

    def __init__(self, documents: Sequence[Document], k1: float = 1.2, b: float = 0.75) -> None:
        self._documents = documents
        counts = [Counter(_words(f"{each.title} {each.text}")) for each in documents]
        lengths = [sum(count.values()) for count in counts]
        mean = sum(lengths) / max(1, len(lengths)) or 1.0
        self._weights: dict[str, list[tuple[int, float]]] = defaultdict(list)
        frequency = Counter(word for count in counts for word in count)
        for place, (count, length) in enumerate(zip(counts, lengths, strict=True)):
            for word, times in count.items():
                idf = math.log(1 + (len(documents) - frequency[word] + 0.5) / (frequency[word] + 0.5))
                weight = idf * times * (k1 + 1) / (times + k1 * (1 - b + b * length / mean))
                self._weights[word].append((place, weight))

    def best(self, query: str, limit: int) -> list[tuple[int, float]]:
        """Places and scores of the best texts, the best first; at equal scores in the corpus' order."""
        scores: dict[int, float] = defaultdict(float)
        for word in _words(query):
            for place, weight in self._weights.get(word, ()):
                scores[place] += weight
        return sorted(scores.items(), key=lambda pair: (-pair[1], pair[0]))[:limit]

    def find(self, query: str, limit: int) -> str:
        """The best texts, each with its title; a ToolError if the limit makes no sense."""
        if not 1 <= limit <= MOST:
            raise ToolError(f"limit must lie between 1 and {MOST}")
        found = [self._documents[place] for place, _ in self.best(query, limit)]
        return "\n\n".join(shown(each.title, each.text) for each in found) or "nothing found"


def shown(title: str, text: str) -> str:
    """A text as the policy sees it."""
    return f"{title}\n{text[:_SHOWN]}".strip()


@functools.lru_cache(maxsize=4)
def shared_index(path: str) -> Index:
    """The index of a file, one for all episodes of a process; a DataError if the file has no texts."""
    documents = list(read_jsonl(path, _read, "stop"))
    if not documents:
        raise DataError(f"{path} has no texts", hint='lines like {"title": "…", "text": "…"}')
    return Index(documents)


def _read(row: Any) -> Document:
    if not isinstance(row, dict) or not isinstance(row.get("text"), str):
        raise KeyError("it needs text")
    return Document(str(row.get("title", "")), row["text"])


def _words(text: str) -> list[str]:
    return _WORD.findall(text.lower())
