"""From a checked configuration to a trainer, and from a trainer back to the words that build it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import attrs

from dovetail.graph.recipe import Recipe, as_recipe
from dovetail.parts import Part
from dovetail.registry import registry
from dovetail_trainer.config.schema import AgentConfig, PartConfig, RunConfig

if TYPE_CHECKING:
    from dovetail.agents.agent import Agent
    from dovetail.messages import Task
    from dovetail_trainer.trainer import Trainer


def build(
    config: RunConfig,
    run_dir: str | Path | None = None,
    algorithm: Recipe | None = None,
    prompts: Sequence[Task] | None = None,
) -> Trainer:
    """Make the trainer of a configuration.

    ``run_dir`` and ``algorithm`` override the configured ones; ``prompts`` are those of a script.
    """
    from dovetail_trainer.trainer import Trainer

    return Trainer(
        as_recipe(algorithm or config.algorithm.use)(**config.algorithm.options),
        policy=build_agent(config.policy),
        agents={name: build_agent(agent) for name, agent in config.agents.items()},
        environment=build_part("environments", config.environment) if config.environment else None,
        prompts=prompts,
        data=config.data,
        rewards=[build_part("rewards", part) for part in config.rewards],
        loggers=[build_part("loggers", part) for part in config.loggers],
        extensions=[build_part("extensions", part) for part in config.extensions],
        settings=config.settings,
        run_dir=run_dir or config.run_dir,
    )


def build_part(kind: str, config: PartConfig) -> Part:
    """A part as configured."""
    factory = registry(kind)[config.use]
    weight = config.weight
    weight = build_part("weights", weight) if isinstance(weight, PartConfig) else weight
    words = {"weight": weight, "name": config.name, "process": config.process}
    return factory(**{**words, **config.options})  # type: ignore[no-any-return]


def build_agent(config: AgentConfig) -> Agent:
    """An agent as configured; its model is not loaded yet."""
    from dovetail.agents.agent import Agent

    options = attrs.asdict(config, recurse=False)
    if isinstance(config.generator, PartConfig):
        options["generator"] = build_part("generators", config.generator)
    return Agent(options.pop("model"), **options)


def describe_run(trainer: Trainer) -> dict[str, Any]:
    """The configuration that builds this trainer again, as plain data for its folder."""
    described = {
        "algorithm": {"use": _registered(trainer.recipe.name), **trainer.recipe.settings()},
        "policy": _describe_agent(trainer.policy),
        "agents": {name: _describe_agent(agent) for name, agent in trainer.given_agents.items()},
        "environment": _describe_part(trainer.environment) if trainer.environment else None,
        "data": trainer.data,
        "rewards": [_describe_part(part) for part in trainer.rewards],
        "loggers": [_describe_part(part) for part in trainer.loggers],
        "extensions": [_describe_part(part) for part in trainer.extensions],
        **attrs.asdict(trainer.settings, recurse=False),
    }
    return {key: plain for key, value in described.items() if (plain := _plain(value)) not in (None, [], {})}


def _registered(recipe: str) -> str:
    """How a recipe is registered: a function's name has no hyphens."""
    hyphenated = recipe.replace("_", "-")
    return hyphenated if hyphenated in registry("recipes") and recipe not in registry("recipes") else recipe


def _describe_part(part: Part) -> dict[str, Any]:
    weight = {"weight": _describe_weight(part.weight)} if part.weight != 1.0 else {}
    name = {"name": part.label} if part.label != part.name else {}
    process = {} if part.process is None else {"process": part.process}
    return {"use": part.name, **weight, **name, **process, **part.options()}


def _describe_weight(weight: float | Part) -> Any:
    return _describe_part(weight) if isinstance(weight, Part) else weight


def _describe_agent(agent: Agent) -> dict[str, Any]:
    settings = dict(agent.settings)
    if settings["generator"] == attrs.fields(AgentConfig).generator.default:
        del settings["generator"]  # a run that samples nothing does without it
    elif not isinstance(settings["generator"], str):
        settings["generator"] = _describe_part(agent.generator)
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
