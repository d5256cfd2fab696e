"""From a checked configuration to a trainer."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import attrs

from dovetail.config.schema import AgentConfig, PartConfig, RunConfig
from dovetail.graph.recipe import Recipe, as_recipe
from dovetail.parts import Part
from dovetail.registry import registry

if TYPE_CHECKING:
    from dovetail.agents.agent import Agent
    from dovetail.training.trainer import Trainer


def build(config: RunConfig, run_dir: str | Path | None = None, algorithm: Recipe | None = None) -> Trainer:
    """Make the trainer of a configuration; ``run_dir`` and ``algorithm`` override the configured ones."""
    from dovetail.training.trainer import Trainer

    return Trainer(
        as_recipe(algorithm or config.algorithm.use)(**config.algorithm.options),
        policy=_agent(config.policy),
        agents={name: _agent(agent) for name, agent in config.agents.items()},
        environment=_part("environments", config.environment) if config.environment else None,
        data=config.data,
        rewards=[_part("rewards", part) for part in config.rewards],
        loggers=[_part("loggers", part) for part in config.loggers],
        extensions=[_part("extensions", part) for part in config.extensions],
        settings=config.settings,
        run_dir=run_dir or config.run_dir,
    )


def _part(kind: str, config: PartConfig) -> Part:
    factory = registry(kind)[config.use]
    return factory(weight=config.weight, name=config.name, **config.options)  # type: ignore[no-any-return]


def _agent(config: AgentConfig) -> Agent:
    from dovetail.agents.agent import Agent

    options = attrs.asdict(config, recurse=False)
    options["generator"] = _part("generators", config.generator)
    return Agent(options.pop("model"), **options)
