"""The resolved words of a run, as plain data: what is written into its folder, and what resumes it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import attrs

from dovetail.parts import Part


def describe_run(trainer: Any) -> dict[str, Any]:
    """A configuration that builds this trainer again."""
    described = {
        "algorithm": {"use": trainer.recipe.name, **trainer.recipe.settings()},
        "policy": _agent(trainer.policy),
        "agents": {name: _agent(agent) for name, agent in trainer.given_agents.items()},
        "environment": _part(trainer.environment) if trainer.environment else None,
        "data": trainer.data,
        "rewards": [_part(part) for part in trainer.rewards],
        "loggers": [_part(part) for part in trainer.loggers],
        "extensions": [_part(part) for part in trainer.extensions],
        **attrs.asdict(trainer.settings, recurse=False),
    }
    return {key: plain for key, value in described.items() if (plain := _plain(value)) not in (None, [], {})}


def _part(part: Part) -> dict[str, Any]:
    own = {"use": part.name, "weight": part.weight, "name": part.label}
    default = {"weight": 1.0, "name": part.name}
    return {**{key: value for key, value in own.items() if value != default.get(key)}, **part.options()}


def _agent(agent: Any) -> dict[str, Any]:
    settings = dict(agent.settings)
    if not isinstance(settings["generator"], str):
        settings["generator"] = _part(agent.generator)
    model = agent.name if settings["tiny"] is None else None
    described = {"model": model, "trainable": agent.trainable, **settings}
    return {key: value for key, value in described.items() if value is not None}


def _plain(value: Any) -> Any:
    """As JSON can hold it."""
    if attrs.has(type(value)):
        return _plain(attrs.asdict(value, recurse=False))
    if isinstance(value, Mapping):
        return {str(key): _plain(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [_plain(inner) for inner in value]
    if isinstance(value, str | int | float | bool | None):
        return value
    return str(value) if isinstance(value, Path) else repr(value)
