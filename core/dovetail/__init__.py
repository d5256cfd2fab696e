"""dovetail: a plugin-based framework for reinforcement learning of language-model agents.

Nothing happens at import: every public name is loaded when it is first used.
"""

from __future__ import annotations

import functools
import importlib
from typing import Any

__version__ = "0.1.0"

_HOMES = {
    "ragged": "Ragged",
    "messages": "Environment Message StepResult StopReason SyncEnvironment Task Tasks ToolCall ToolSpec",
    "sampling": "Sampling",
    "rollouts": "Advantages Generated Invalid LossTerms Origin RewardStatus Rollouts Scores",
    "errors": "DovetailError UserError PartError RecipeError ConfigError DataError",
    "parts": "Part hookimpl",
    "graph.recipe": "Recipe algorithm recipe",
    "graph.build": "add_loss advantages entropy generate logprobs loss op reward rollout run_rewards set_loss values",
    "compiler.compile": "compile",
    "agents.agent": "Agent",
    "settings": "LoraSettings OptimizerSettings TinySettings TrainSettings",
}
_NAMES = {name: f"dovetail.{home}" for home, names in _HOMES.items() for name in names.split()}
_NAMES |= {"Trainer": "dovetail_trainer.trainer", "DataSettings": "dovetail_trainer.settings"}
_NAMES |= dict.fromkeys(("diff", "draw"), "dovetail_trainer.show")
_NAMES |= dict.fromkeys(("generate_step", "structure_rollout"), "dovetail_episodes.structured")
_NAMES |= {"kernel_op": "dovetail_kernels.op", "train_rlhf": "dovetail_rlhf.train"}
_KINDS = ("rewards", "weights", "environments", "generators", "losses", "loggers", "extensions", "recipes")
_REGISTRIES = {kind: kind for kind in _KINDS} | {"advantage_estimators": "advantages"}

__all__ = [*_NAMES, *_REGISTRIES, "__version__"]


def load(home: str) -> Any:
    """Import a module, also of our distributions that may be missing; a UserError then names the extra."""
    package = home.partition(".")[0]
    try:
        return importlib.import_module(home)
    except ModuleNotFoundError as error:
        if error.name != package or package == __name__:
            raise
        from dovetail.errors import UserError

        extra = package.removeprefix("dovetail_")
        raise UserError(f"{package} is not installed", hint=f'pip install "dovetail[{extra}]"') from error


def __getattr__(name: str) -> Any:
    part, _, builder = name.rpartition("_")
    if name in _NAMES:
        value = getattr(load(_NAMES[name]), name)
    elif name in _REGISTRIES:
        value = importlib.import_module("dovetail.registry").registry(_REGISTRIES[name])
    elif builder in ("advantages", "loss") and not name.startswith("_"):  # dt.clipped_loss(…) is dt.loss("clipped", …)
        build = getattr(importlib.import_module("dovetail.graph.build"), builder)
        value = functools.partial(build, part.replace("_", "-"))
    else:
        raise AttributeError(f"module 'dovetail' has no attribute {name!r}")
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
