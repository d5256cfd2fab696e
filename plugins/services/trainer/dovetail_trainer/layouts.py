"""What the rows of offline data may look like: demonstrations, pairs of answers, answers with a label or with ratings."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import attrs

from dovetail.errors import DataError
from dovetail.messages import Message

_ANSWER = "\n\nAssistant:"  # where a turn of the assistant begins in a transcript, as in Anthropic's hh-rlhf


@attrs.frozen
class Example:
    """A conversation, and from which turn on the assistant's words are targets; ``columns`` become its task's."""

    messages: tuple[Message, ...]
    first_target: int = 0
    columns: Mapping[str, Any] = attrs.field(factory=dict)


Layout = Callable[[Any], list[Example]]


def layout_of(name: str) -> Layout:
    """The layout of a recipe's input: ``pairs``, ``labelled``, ``judged``, else demonstrations.

    A layout reads a row as the examples of one group; a row that does not fit it is a DataError.
    """
    return {"pairs": pair, "labelled": labelled, "judged": judged}.get(name, demonstration)


def demonstration(row: Any) -> list[Example]:
    """``messages``, or ``prompt`` and ``completion``; every turn of the assistant is a target."""
    row = _mapping(row)
    if row.get("messages"):
        return [Example(_turns(row, "messages"))]
    hint = "give either `messages`, or `prompt` and `completion`"
    return [Example((*_prompt(row, hint), _answer(row, "completion", hint)))]


def labelled(row: Any) -> list[Example]:
    """``prompt``, ``completion`` and ``label``: whether the completion is desirable."""
    row = _mapping(row)
    hint = "give `prompt`, `completion` and a `label` that is true or false"
    before, answer, label = _prompt(row, hint), _answer(row, "completion", hint), _column(row, "label", hint)
    if not isinstance(label, bool):
        raise DataError(f"the column 'label' is {type(label).__name__} {label!r:.40}, not true or false", hint=hint)
    _not_empty(completion=answer)
    return [Example((*before, answer), len(before), {**_others(row), "label": float(label)})]


def prompt(row: Any) -> list[Example]:
    """``prompt``, or what the two conversations of a pair have in common; other columns are for rewards."""
    row = _mapping(row)
    if "prompt" not in row and "chosen" in row and "rejected" in row:
        return [Example(pair(row)[0].messages[:-1], columns=_others(row))]
    return [Example(_prompt(row, "give `prompt`: text, or messages"), columns=_others(row))]


def pair(row: Any) -> list[Example]:
    """``prompt``, ``chosen`` and ``rejected``: the better answer, then the worse one, which share the prompt.

    Without a prompt, ``chosen`` and ``rejected`` are whole conversations, as messages or as transcripts in the manner
    of hh-rlhf, that differ in the last answer alone. A ``margin`` says by how much the better one is better.
    """
    row = _mapping(row)
    hint = "give `prompt`, `chosen` and `rejected`"
    if "prompt" in row:
        before = _prompt(row, hint)
        answers = [_answer(row, name, hint) for name in ("chosen", "rejected")]
    else:
        before, answers = _apart(*(_conversation(row, name, hint) for name in ("chosen", "rejected")))
    chosen, rejected = answers
    _not_empty(chosen=chosen, rejected=rejected)
    if chosen.content == rejected.content:
        raise DataError("'chosen' and 'rejected' are equal, so nothing is preferred", hint="drop the row")
    _refuse_swapped(row)
    others = _others(row)
    return [
        Example((*before, answer), len(before), {**others, "label": label})
        for answer, label in ((chosen, 1.0), (rejected, 0.0))
    ]


def judged(row: Any) -> list[Example]:
    """What objectives say of answers: a pair with its preferences, or one answer with its ratings.

    A pair (see :func:`pair`) names the ``objective`` that it is about, or has ``preferences``: which of the two is the
    better one for each objective, ``chosen`` or ``rejected``. One answer is ``prompt``, ``completion`` and ``ratings``,
    a number for each objective. What is missing or null is no label. The examples have a column ``preferences`` (1 for
    the better answer, 0 for the other) or ``ratings``.
    """
    row = _mapping(row)
    if row.get("ratings") is not None:
        hint = "give `prompt`, `completion` and `ratings: {<objective>: <number>}`"
        before, answer = _prompt(row, hint), _answer(row, "completion", hint)
        _not_empty(completion=answer)
        ratings = {name: _rating(name, value, hint) for name, value in _labels(row, "ratings", hint).items()}
        return [Example((*before, answer), len(before), {"ratings": ratings})]
    hint = "give a pair `objective: <name>` or `preferences: {<objective>: chosen}`, or an answer its `ratings`"
    if row.get("objective") is not None:
        if row.get("preferences") is not None:
            raise DataError("a row has both 'objective' and 'preferences'", hint=hint)
        row = {**row, "preferences": {_text(row["objective"], "objective"): "chosen"}}
    better = _labels(row, "preferences", hint)
    for name, side in better.items():
        if side not in ("chosen", "rejected"):
            raise DataError(f"the preference for {name!r} is {side!r:.40}, not 'chosen' or 'rejected'", hint=hint)
    return [
        attrs.evolve(example, columns={"preferences": {name: float(side == own) for name, side in better.items()}})
        for example, own in zip(pair(row), ("chosen", "rejected"), strict=True)
    ]


def _labels(row: Mapping[str, Any], name: str, hint: str) -> dict[str, Any]:
    """Those that are not null, by objective."""
    value = _column(row, name, hint)
    if not isinstance(value, Mapping):
        raise DataError(f"the column {name!r} is {type(value).__name__}, not an object", hint=hint)
    if labels := {objective: label for objective, label in value.items() if label is not None}:
        return labels
    raise DataError(f"the column {name!r} has no label for any objective", hint="drop the row")


def _rating(name: str, value: Any, hint: str) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise DataError(f"the rating for {name!r} is {type(value).__name__} {value!r:.40}, not a number", hint=hint)
    return float(value)


def _refuse_swapped(row: Mapping[str, Any]) -> None:
    """Refuse a row whose own columns say that the rejected answer is the better one, or that the prompt is an answer."""
    hint = "swap the columns back"
    for name in ("chosen", "rejected"):
        if row.get("prompt") == row[name]:
            raise DataError(f"the columns 'prompt' and {name!r} are equal: are columns swapped?", hint=hint)
    margin = row.get("margin", 0.0)
    if isinstance(margin, bool) or not isinstance(margin, int | float):
        raise DataError(f"the column 'margin' is {type(margin).__name__} {margin!r:.40}, not a number")
    better, worse = row.get("score_chosen"), row.get("score_rejected")
    if margin < 0 or (better is not None and worse is not None and better < worse):
        told = f"margin {margin:g}" if margin < 0 else f"scores {better} and {worse}"
        raise DataError(f"'chosen' is worse than 'rejected' ({told}): are the columns swapped?", hint=hint)


def _mapping(row: Any) -> Mapping[str, Any]:
    if not isinstance(row, Mapping):
        raise DataError(f"a row must be an object, got {type(row).__name__}")
    return row


def _column(row: Mapping[str, Any], name: str, hint: str) -> Any:
    if name not in row:
        known = ", ".join(sorted(row)) or "none"
        raise DataError(f"a row has no column {name!r} (it has: {known})", hint=hint)
    return row[name]


def _others(row: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in row.items() if name not in ("prompt", "chosen", "rejected", "completion")}


def _turns(row: Mapping[str, Any], name: str) -> tuple[Message, ...]:
    try:
        return tuple(Message(message["role"], message["content"]) for message in row[name])
    except (TypeError, KeyError) as error:
        raise DataError(f"the column {name!r} must list objects with a role and a content") from error


def _is_list(value: Any) -> bool:
    return isinstance(value, Sequence) and not isinstance(value, str)


def _prompt(row: Mapping[str, Any], hint: str) -> tuple[Message, ...]:
    """Text, or messages."""
    value = _column(row, "prompt", hint)
    return _turns(row, "prompt") if _is_list(value) else (Message("user", _text(value, "prompt")),)


def _answer(row: Mapping[str, Any], name: str, hint: str) -> Message:
    """Text, or a list of the assistant's one message."""
    value = _column(row, name, hint)
    if not _is_list(value):
        return Message("assistant", _text(value, name))
    turns = _turns(row, name)
    if [turn.role for turn in turns] != ["assistant"]:
        said = ", ".join(turn.role for turn in turns) or "nothing"
        raise DataError(f"the column {name!r} must hold one message of the assistant, and holds: {said}", hint=hint)
    return turns[0]


def _text(value: Any, name: str) -> str:
    if not isinstance(value, str):
        raise DataError(f"the column {name!r} is {type(value).__name__}, not text")
    return value


def _conversation(row: Mapping[str, Any], name: str, hint: str) -> tuple[Message, ...]:
    """A whole conversation, the answer last: messages, or a transcript as its text up to the answer and the answer."""
    value = _column(row, name, hint)
    if _is_list(value):
        turns = _turns(row, name)
        if not turns or turns[-1].role != "assistant":
            raise DataError(f"the column {name!r} does not end with a message of the assistant", hint=hint)
        return turns
    before, marker, answer = _text(value, name).rpartition(_ANSWER)
    if not marker:
        raise DataError(f"a row has no column 'prompt', and {name!r} is no transcript with {_ANSWER!r}", hint=hint)
    return Message("user", before + marker), Message("assistant", answer)


def _apart(chosen: tuple[Message, ...], rejected: tuple[Message, ...]) -> tuple[tuple[Message, ...], list[Message]]:
    if chosen[:-1] != rejected[:-1]:
        problem = "'chosen' and 'rejected' answer different prompts"
        hint = "the two conversations must be the same up to the last answer"
        raise DataError(problem, hint=hint)
    return chosen[:-1], [chosen[-1], rejected[-1]]


def _not_empty(**answers: Message) -> None:
    for name, answer in answers.items():
        if not answer.content.strip():
            raise DataError(f"the column {name!r} is empty", hint="drop the row")
