"""The rule-based judge: five scores of an argument, from its words alone.

The features are those that studies of convincing arguments name (Habernal and Gurevych 2016, Wei et al. 2016, Tan et
al. 2016): how much is said, by which words, with which marks of evidence, how carefully, in answer to what. The
weights are round numbers set by hand on pairs of UKPConvArg1; see the README for what they reach there, and for what no
rule can see: whether an argument is true.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence

import attrs
from attrs.validators import ge, gt

_WORD = re.compile(r"[^\W\d_]+(?:['’][^\W\d_]+)?")
_SMALL = """a about after all also an and any are as at be because been before being but by can could did do does from had
    has have he her here his how i if in into is it its just may me might more most must my no not of on only or other
    our out over own same she should so some such than that the their them then there these they this those to too us
    very was we were what when where which who why will with would you your"""
_FUNCTION_WORDS = frozenset(_SMALL.split())
_EVIDENCE = re.compile(
    r"\b(?:for (?:example|instance)|such as|according to|research\w*|stud(?:y|ies)|evidence|statistics?|percent|facts?|data"
    r"|scientists?|experts?|proven?|shows?|history|report(?:s|ed)?|surveys?|http\S*|www\S*)\b|\d+|%",
    re.IGNORECASE,
)
_CONTRAST = re.compile(
    r"\b(?:however|although|though|but|despite|even (?:if|though)|on the other hand|yet|nevertheless|instead"
    r"|opponents?|claims?|you (?:say|said|argue|argued))\b",
    re.IGNORECASE,
)
_SELF = frozenset(("i", "i'm", "i've", "i'd", "i’m", "i’ve", "i’d", "id", "im", "me", "mine", "my"))
_CARELESS = re.compile(
    r"\b(?:u|ur|r|b|n|plz|pls|cuz|coz|cz|bcoz|bcz|lol|wanna|gonna|dat|da|wud|shud|ppl|im|ive|dont|cant|wont|doesnt|isnt"
    r"|didnt|thats|thier|alot)\b",
    re.IGNORECASE,
)
_INSULT = re.compile(
    r"\b(?:stupid|idiots?|idiotic|dumb|morons?|lame|ridiculous|sucks?|crap|shit|fuck\w*|shut up|hell|lol)\b",
    re.IGNORECASE,
)
_CAPITAL, _CLOSED = re.compile(r"\W*[A-Z0-9]"), re.compile(r"[.!?][\"')\]\s]*$")
_SENTENCE_END, _SHOUT = re.compile(r"[.!?]+\s*"), re.compile(r"!|\?{2,}|\.{3,}")
_USUAL_SENTENCE = 18  # words


@attrs.frozen
class Weights:
    """Of the scores in the total; they need not add up to 1."""

    evidence: float = attrs.field(default=9.0, validator=gt(0))
    relevance: float = attrs.field(default=2.0, validator=ge(0))
    rebuttal: float = attrs.field(default=2.0, validator=ge(0))
    consistency: float = attrs.field(default=3.0, validator=ge(0))
    brevity: float = attrs.field(default=1.0, validator=ge(0))


@attrs.frozen
class ArgumentScores:
    """Each in [0, 1]; ``total`` is their weighted mean, and 0 for an argument without words."""

    evidence: float = 0.0
    relevance: float = 0.0
    rebuttal: float = 0.0
    consistency: float = 0.0
    brevity: float = 0.0
    total: float = 0.0


def score_argument(
    text: str,
    topic: str,
    *,
    against: str = "",
    before: Sequence[str] = (),
    weights: Weights | None = None,
    most_words: int = 250,
) -> ArgumentScores:
    """Score one argument.

    Args:
        text: The argument.
        topic: The motion.
        against: What the other side said last. Without it there is nothing to rebut: ``rebuttal`` is 0 and does not
            count.
        before: What this side said in earlier turns.
        weights: Of the scores.
        most_words: More cost brevity.
    """
    words = [word.lower() for word in _WORD.findall(text)]
    if not words:
        return ArgumentScores()
    content = [word for word in words if word not in _FUNCTION_WORDS]
    sentences = max(1, sum(bool(piece.strip()) for piece in _SENTENCE_END.split(text)))
    scores = {
        "evidence": _evidence(text, words),
        "relevance": _relevance(words, content, topic),
        "rebuttal": _rebuttal(text, content, against),
        "consistency": _consistency(text, words, sentences, before),
        "brevity": _brevity(words, content, sentences, most_words),
    }
    chosen = attrs.asdict(weights or Weights())
    if not against.strip():
        del chosen["rebuttal"]  # who begins has nothing to rebut, and does not pay for it
    total = sum(weight * scores[name] for name, weight in chosen.items()) / sum(chosen.values())
    return ArgumentScores(**scores, total=total)


def _growth(amount: float, full: float) -> float:
    """From 0 to 1 at ``full``, each doubling worth about the same."""
    return min(1.0, math.log1p(amount) / math.log1p(full))


def _evidence(text: str, words: Sequence[str]) -> float:
    """How much is brought forward: letters, long words, marks of evidence such as figures and sources."""
    letters, long_words = sum(map(len, words)), sum(len(word) >= 7 for word in words)
    marks = len(_EVIDENCE.findall(text))
    return (6 * _growth(letters, 1000) + 2 * _growth(long_words, 40) + _growth(marks, 10)) / 9


def _relevance(words: Sequence[str], content: Sequence[str], topic: str) -> float:
    """Words of the motion, and talk of the matter rather than of oneself."""
    wanted = {word.lower() for word in _WORD.findall(topic)} - _FUNCTION_WORDS
    named = len(wanted.intersection(content)) / len(wanted) if wanted else 0.0
    of_oneself = sum(word in _SELF for word in words) / len(words)
    return 0.15 * min(1.0, 2 * named) + 0.85 * max(0.0, 1 - 3 * of_oneself)


def _rebuttal(text: str, content: Sequence[str], against: str) -> float:
    """Taking up the other side's words, and contrasting them. Mere repetition of them is none."""
    theirs = {word.lower() for word in _WORD.findall(against)} - _FUNCTION_WORDS
    if not theirs or not content:
        return 0.0
    own = set(content)
    taken_up = min(1.0, 4 * len(theirs & own) / len(theirs))
    added = min(1.0, 2 * len(own - theirs) / len(own))
    return added * (0.6 * taken_up + 0.4 * _growth(len(_CONTRAST.findall(text)), 2))


def _consistency(text: str, words: Sequence[str], sentences: int, before: Sequence[str]) -> float:
    """Care: no chat spelling, insults or shouting, whole sentences, no cascade of questions, nothing said before again."""
    faults = (
        0.4 * min(1.0, 5 * len(_CARELESS.findall(text)) / len(words))
        + 0.2 * min(1.0, len(_INSULT.findall(text)) / 2)
        + 0.1 * (_CAPITAL.match(text) is None)
        + 0.1 * (_CLOSED.search(text) is None)
        + 0.1 * min(1.0, len(_SHOUT.findall(text)) / sentences)
        + 0.1 * min(1.0, text.count("?") / sentences)
    )
    return (1 - faults) * (1 - _said_before(words, before))


def _said_before(words: Sequence[str], before: Sequence[str]) -> float:
    """The share of runs of four words that earlier turns hold too."""
    runs = list(zip(*(words[start:] for start in range(4)), strict=False))
    earlier = [[word.lower() for word in _WORD.findall(text)] for text in before]
    known = {run for said in earlier for run in zip(*(said[start:] for start in range(4)), strict=False)}
    return sum(run in known for run in runs) / len(runs) if runs else 0.0


def _brevity(words: Sequence[str], content: Sequence[str], sentences: int, most_words: int) -> float:
    """Sentences of a usual length, content words not said again and again, no more words than allowed."""
    unusual = min(1.0, abs(math.log(len(words) / sentences / _USUAL_SENTENCE)) / 1.5)
    repeated = 1 - len(set(content)) / len(content) if content else 1.0
    return (1 - 0.4 * unusual - 0.6 * repeated) * min(1.0, most_words / len(words))
