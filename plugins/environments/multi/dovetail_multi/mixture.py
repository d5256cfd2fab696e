"""Which environments there are, and in which order their tasks come."""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import attrs

from dovetail import DataError, Part, Task
from dovetail.registry import as_part, registry

COLUMN = "environment"


def members(configured: Sequence[Any]) -> dict[str, Part]:
    """The environments by name; a ValueError tells what is wrong with the list."""
    parts: dict[str, Part] = {}
    for number, words in enumerate(configured):
        part = _member(words, number)
        if part.label in parts:
            raise ValueError(f"two environments are called {part.label!r}: give one of them a name")
        if "/" in part.label:
            raise ValueError(f"the name {part.label!r} of an environment must not hold a slash")
        if not part.weight > 0:
            raise ValueError(f"the weight of the environment {part.label!r} must be above 0, got {part.weight:g}")
        parts[part.label] = part
    if not parts:
        raise ValueError("a mixture needs environments: [{use: math, weight: 2}, …]")
    return parts


def _member(words: Any, number: int) -> Part:
    if not isinstance(words, Mapping):
        return as_part("environments", words)
    options = dict(words)
    if not isinstance(use := options.pop("use", None), str):
        raise ValueError(f"environments[{number}] is written {{use: <name>, …options}} or as its name")
    part: Part = registry("environments")[use](**options)
    return part


def words(part: Part) -> dict[str, Any]:
    """The words of a configuration that make this part."""
    return {"use": part.name, "weight": part.weight, "name": part.label, **part.options()}


def mark(name: str, task: Task) -> Task:
    """A member's task as one of the mixture's. Mixtures of mixtures join their names by a slash."""
    path = "/".join(filter(None, [name, task.columns.get(COLUMN)]))
    return attrs.evolve(task, id=f"{name}/{task.id}", columns={**task.columns, COLUMN: path})


def unmark(task: Task) -> tuple[str, Task]:
    """The member's name, and its own task again."""
    name, _, path = str(task.columns.get(COLUMN, "")).partition("/")
    columns = {**task.columns, COLUMN: path} if path else {k: v for k, v in task.columns.items() if k != COLUMN}
    return name, attrs.evolve(task, id=task.id.removeprefix(f"{name}/"), columns=columns)


def alternate(weights: Mapping[str, float]) -> Iterator[str]:
    """Names without end, each as often as its weight says, and as evenly as that goes.

    After n draws each name has come n * weight / total times, give or take less than one for two names and little more
    for several (smooth weighted round robin, as in nginx).
    """
    total, credit = sum(weights.values()), dict.fromkeys(weights, 0.0)
    while True:
        for name, weight in weights.items():
            credit[name] += weight
        chosen = max(credit, key=credit.__getitem__)
        credit[chosen] -= total
        yield chosen


class TrainTasks:
    """The stream of a mixture, the same each time."""

    def __init__(self, parts: Mapping[str, Part], seed: int) -> None:
        self._parts, self._seed = parts, seed

    def __iter__(self) -> Iterator[Task]:
        streams = {name: _endless(name, part, self._seed) for name, part in self._parts.items()}
        for name in alternate({name: part.weight for name, part in self._parts.items()}):
            yield mark(name, next(streams[name]))


def _endless(name: str, part: Part, seed: int) -> Iterator[Task]:
    tasks = part.call("tasks", {"split": "train"})
    for epoch in itertools.count():
        order, drawn = tasks, 0
        if hasattr(tasks, "__getitem__"):
            order = list(tasks)
            random.Random(f"{seed}/{name}/{epoch}").shuffle(order)
        elif epoch:
            order = part.call("tasks", {"split": "train"})
        for drawn, task in enumerate(order, start=1):  # noqa: B007  how many there were
            yield task
        if not drawn:
            raise DataError(f"the environment {name!r} of the mixture has no tasks to train on")


def held_out(parts: Mapping[str, Part], split: str, most: int) -> list[Task]:
    """All tasks of a split, in proportion as long as there are any of each."""
    left = {name: list(itertools.islice(part.call("tasks", {"split": split}), most)) for name, part in parts.items()}
    order = alternate({name: part.weight for name, part in parts.items()})
    streams, count = {name: iter(tasks) for name, tasks in left.items()}, sum(map(len, left.values()))
    drawn = (mark(name, task) for name in order if (task := next(streams[name], None)) is not None)
    return list(itertools.islice(drawn, count))
