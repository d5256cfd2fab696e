"""dovetail: a plugin-based framework for reinforcement learning of language-model agents.

Nothing happens at import: every public name is loaded when it is first used.
"""

from __future__ import annotations

import functools
import importlib
from typing import Any

__version__ = "0.1.0"

_HOMES = {
    "dovetail.ragged": ("Ragged",),
    "dovetail.messages": ("Message", "StepResult", "StopReason", "Task", "ToolCall", "ToolSpec"),
    "dovetail.sampling": ("Sampling",),
    "dovetail.rollouts": ("Generated", "Invalid", "Origin", "RewardStatus", "Rollouts", "Scores", "Tasks"),
    "dovetail.results": ("Advantages", "LossTerms"),
    "dovetail.environment": ("Environment", "SyncEnvironment"),
    "dovetail.errors": ("DovetailError", "UserError", "PartError", "RecipeError", "ConfigError", "DataError"),
    "dovetail.parts": ("Part", "hookimpl"),
    "dovetail.graph.recipe": ("Recipe", "algorithm", "recipe"),
    "dovetail.graph.build": (
        "add_loss",
        "advantages",
        "entropy",
        "generate",
        "logprobs",
        "loss",
        "op",
        "reward",
        "run_rewards",
        "set_loss",
        "values",
    ),
    "dovetail.graph.show": ("diff", "draw"),
    "dovetail.compiler.compile": ("compile",),
    "dovetail.agents.agent": ("Agent",),
    "dovetail.training.trainer": ("Trainer",),
    "dovetail.settings": ("DataSettings", "LoraSettings", "OptimizerSettings", "TinySettings", "TrainSettings"),
}
_NAMES = {name: home for home, names in _HOMES.items() for name in names}
_SUFFIXES = {"_advantages": "advantages", "_loss": "loss"}
_REGISTRIES = {
    "rewards": "rewards",
    "environments": "environments",
    "generators": "generators",
    "advantage_estimators": "advantages",
    "losses": "losses",
    "loggers": "loggers",
    "extensions": "extensions",
}

__all__ = [*_NAMES, *_REGISTRIES, "__version__", "recipes"]


def __getattr__(name: str) -> Any:
    if name in _NAMES:
        value = getattr(importlib.import_module(_NAMES[name]), name)
    elif name in _REGISTRIES:
        value = importlib.import_module("dovetail.registry").registry(_REGISTRIES[name])
    elif name == "recipes":
        value = importlib.import_module("dovetail.recipes")
    elif not name.startswith("_") and (suffix := next((s for s in _SUFFIXES if name.endswith(s)), None)):
        build = getattr(importlib.import_module("dovetail.graph.build"), _SUFFIXES[suffix])
        value = functools.partial(build, name.removesuffix(suffix).replace("_", "-"))
    else:
        raise AttributeError(f"module 'dovetail' has no attribute {name!r}")
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
