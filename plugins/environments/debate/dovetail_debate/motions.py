"""Motions, and the tasks that they give."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any

from dovetail import DataError, Message, Task
from dovetail.jsonl import read_jsonl

SIDES = ("for", "against")
MOTIONS = (
    "Cities should ban private cars from their centres",
    "Homework should be abolished in primary schools",
    "Voting should be compulsory",
    "Zoos do more harm than good",
    "Museums should be free for everybody",
    "Nuclear power should replace coal",
    "Social media should be closed to children under sixteen",
    "Plastic water bottles should be banned",
    "Physical education should be mandatory in schools",
    "Space exploration is worth its cost",
    "A four-day week should be the rule",
    "Meat should be taxed",
)


def tasks_of(path: str | None, split: str, held_out: float, *, both: bool) -> list[Task]:
    """Two tasks for each motion of a split: who begins if ``both`` sides are trained, else who one is."""
    motions = _of_split(_motions(path), split, held_out)
    word = "first" if both else "position"
    return [
        Task(
            f"{split}-{number}-{side}",
            (Message("user", f"{motion} ({word}: {side})"),),
            None,
            {"topic": motion, word: side},
        )
        for number, motion in enumerate(motions)
        for side in SIDES
    ]


def _motions(path: str | None) -> Sequence[str]:
    if path is None:
        return MOTIONS
    found = list(dict.fromkeys(read_jsonl(path, _topic)))
    if not found:
        raise DataError(f"{path} has no motions")
    return found


def _topic(row: Mapping[str, Any]) -> str:
    topic = row["topic"]
    if not isinstance(topic, str) or not topic.strip():
        raise ValueError(f"the topic is {topic!r:.40}, no text")
    return topic.strip()


def _of_split(motions: Sequence[str], split: str, held_out: float) -> list[str]:
    """Those whose hash is among the smallest are held out, so that few motions are shared out as many are."""
    by_hash = sorted(motions, key=lambda motion: hashlib.sha256(motion.encode()).digest())
    apart = set(by_hash[: round(held_out * len(motions))])
    return [motion for motion in motions if split in ("train", "test") and (motion in apart) == (split == "test")]
