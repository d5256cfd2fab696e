"""The resolved words of a run, as plain data: what is written into its folder, and what resumes it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import attrs

from dovetail.parts import Part


def describe_run(trainer: Any) -> dict[str, Any]:
    """A configuration that builds this trainer again."""
    policy = trainer.agents["policy"]
    given = {name: agent for name, agent in trainer.agents.items() if name in trainer.given_agents}
    described = {
        "algorithm": {"use": trainer.recipe.name, **plain(trainer.recipe.settings())},
        "policy": describe_agent(policy),
        "agents": {name: describe_agent(agent) for name, agent in given.items()},
        "environment": describe_part(trainer.environment) if trainer.environment else None,
        "data": plain(attrs.asdict(trainer.data)) if trainer.data else None,
        "rewards": [describe_part(part) for part in trainer.rewards],
        "loggers": [describe_part(part) for part in trainer.loggers],
        "extensions": [describe_part(part) for part in trainer.extensions],
        **plain(attrs.asdict(trainer.settings)),
    }
    return {key: value for key, value in described.items() if value not in (None, [], {})}


def describe_part(part: Part) -> dict[str, Any]:
    core: dict[str, Any] = {"use": part.name}
    if part.weight != 1.0:
        core["weight"] = part.weight
    if part.label != part.name:
        core["name"] = part.label
    return {**core, **plain(part.options())}


def describe_agent(agent: Any) -> dict[str, Any]:
    model = {"model": agent.name} if agent.settings["tiny"] is None else {}
    generator = agent.settings["generator"]
    settings = {key: plain(value) for key, value in agent.settings.items() if key != "generator"}
    described = {
        **model,
        "trainable": agent.trainable,
        "generator": generator if isinstance(generator, str) else describe_part(agent.generator),
        **settings,
    }
    return {key: value for key, value in described.items() if value is not None}


def plain(value: Any) -> Any:
    """As JSON can hold it."""
    if attrs.has(type(value)):
        return plain(attrs.asdict(value, recurse=False))
    if isinstance(value, Mapping):
        return {str(key): plain(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [plain(inner) for inner in value]
    if isinstance(value, Path):
        return str(value)
    return value if isinstance(value, str | int | float | bool | None) else repr(value)
