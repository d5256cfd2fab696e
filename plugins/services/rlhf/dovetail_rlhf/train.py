"""``dt.train_rlhf``: a model, data and rewards in, a trained agent out."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import attrs

from dovetail.agents.agent import Agent
from dovetail.errors import DataError, UserError
from dovetail.graph.graph import Graph
from dovetail.graph.recipe import Recipe, as_recipe
from dovetail.graph.types import AGENT, PROMPTS
from dovetail.settings import LoraSettings, OptimizerSettings
from dovetail_trainer.data import read_prompts, read_rows
from dovetail_trainer.layouts import layout_of
from dovetail_trainer.settings import DataSettings
from dovetail_trainer.trainer import Trainer

BATCH_SIZE = 16
#: Learning rates where the whole model learns: by what its rows are called in recipes. Adapters take ten times as much.
RATES = {"demonstrations": 1e-5, "pairs": 1e-6, "labelled": 1e-6, "prompts": 1e-6}
COLUMNS = {
    "demonstrations": "rows with `prompt` and `completion`, or `messages`",
    "pairs": "pairs: rows with `prompt`, `chosen` and `rejected`",
    "labelled": "labelled answers: rows with `prompt`, `completion` and `label`",
    "prompts": "prompts: texts, or rows with `prompt`",
}


def train_rlhf(
    model: str | Path | Agent,
    dataset: str | Path | Iterable[Any],
    rewards: Iterable[Any] = (),
    algorithm: Recipe | str = "grpo",
    *,
    steps: int | None = None,
    lora: LoraSettings | None = None,
    optimizer: OptimizerSettings | None = None,
    agents: Mapping[str, Agent] | None = None,
    loggers: Iterable[Any] = (),
    extensions: Iterable[Any] = (),
    run_dir: str | Path | None = None,
    **settings: Any,
) -> Agent:
    """Train a model on preferences or by rewards, with defaults that are sound for most, and give the trained agent.

    Args:
        model: A folder or a hub name; or an agent, which keeps its own optimizer and adapters.
        dataset: A JSONL or parquet file or a hub name; or rows; prompts may be mere texts.
        rewards: What an algorithm that samples learns from; the others take none.
        algorithm: A recipe or its name: ``grpo``, ``ppo``, ``dpo`` or any other; ``dt.recipes.dpo(beta=0.2)`` gives it
            options.
        steps: How many; by default one pass over the data.
        lora: Learn low-rank adapters; they are merged into what is saved.
        optimizer: By default AdamW at 1e-6, for demonstrations at 1e-5, and with adapters at ten times as much.
        agents: Further ones by input name. A value model that is not given is a copy of the model with a head, which
            learns five times as fast.
        loggers: Sinks.
        extensions: Callbacks, such as ``adaptive-kl``.
        run_dir: The run's folder, whose ``final`` holds the model; by default ``runs/<algorithm>-<time>``.
        settings: Fields of :class:`~dovetail.settings.TrainSettings`, such as ``sampling``; ``batch_size`` is 16.

    Raises:
        UserError: Something does not fit, such as a column that the algorithm needs; nothing has been run yet.
    """
    recipe = as_recipe(algorithm)
    graph, rewards = recipe.trace(), list(rewards)
    reads = _input_of(graph, recipe.name)
    _check_rewards(recipe.name, reads, rewards)
    policy = _policy(model, graph, lora, optimizer, RATES[reads])
    directory = Path(run_dir or f"runs/{recipe.name}-{time.strftime('%Y%m%d-%H%M%S')}")
    if (directory / "config.json").exists():
        hint = f"continue it with dt.Trainer.resume({str(directory)!r}), or choose another run_dir"
        raise UserError(f"{directory} holds a run already", hint=hint)
    data, count = _data(dataset, reads, recipe.name, directory)
    settings = {"batch_size": BATCH_SIZE, **settings}
    trainer = Trainer(
        recipe, policy=policy, agents=_further(graph, policy, agents or {}), data=data, rewards=rewards,
        loggers=loggers, extensions=extensions, run_dir=directory, **settings,
    )  # fmt: skip
    trainer.fit(steps or math.ceil(count / trainer.settings.batch_size))
    return trainer.policy


def _input_of(graph: Graph, name: str) -> str:
    """What the recipe reads, as a key of COLUMNS."""
    inputs = {key: kind for key, kind in graph.input_types().items() if kind != AGENT and graph.readers(key)}
    if len(inputs) != 1:
        raise UserError(
            f"{name} reads {', '.join(inputs) or 'nothing'}, and this takes one data set", hint="dt.Trainer"
        )
    ((key, kind),) = inputs.items()
    if kind == PROMPTS:
        return "prompts"
    return key if key in ("pairs", "labelled") else "demonstrations"


def _check_rewards(name: str, reads: str, rewards: list[Any]) -> None:
    if reads == "prompts" and not rewards:
        hint = 'rewards=["sentiment"], a reward model (dt.rewards["reward-model"](models=[…])), or a function of texts'
        raise UserError(f"{name} samples and needs rewards to learn from", hint=hint)
    if reads != "prompts" and rewards:
        hint = "leave them out, or take an algorithm that samples, such as grpo or ppo"
        raise UserError(f"{name} learns from its rows and asks no reward", hint=hint)


def _policy(
    model: str | Path | Agent, graph: Graph, lora: LoraSettings | None, optimizer: OptimizerSettings | None, rate: float
) -> Agent:
    if isinstance(model, Agent):
        if lora is not None or optimizer is not None:
            raise UserError(
                "an agent has its own lora and optimizer", hint="give them to dt.Agent, or a name as the model"
            )
        return model
    optimizer = optimizer or OptimizerSettings(lr=rate * (10 if lora else 1))
    return Agent(model, lora=lora, optimizer=optimizer, head="value" if _is_valued(graph, "policy") else None)


def _is_valued(graph: Graph, agent: str) -> bool:
    return any(node.op.name == "values" for node, _, _ in graph.readers(agent))


def _further(graph: Graph, policy: Agent, agents: Mapping[str, Agent]) -> dict[str, Agent]:
    """Those that are given, and value models in the place of those that are not."""
    found = dict(agents)
    if policy.settings["head"] == "value":  # which is then the value model itself
        return found
    for name, kind in graph.input_types().items():
        if kind == AGENT and name != "policy" and name not in found and _is_valued(graph, name):
            faster = attrs.evolve(policy.optimizer, lr=5 * policy.optimizer.lr)
            found[name] = attrs.evolve(policy, lora=None, head="value", optimizer=faster)
    return found


def _data(dataset: Any, reads: str, name: str, directory: Path) -> tuple[DataSettings, int]:
    """The rows as a file, so that the run can be resumed, and how many there are."""
    if not isinstance(dataset, str | Path):
        rows = [{"prompt": row} if reads == "prompts" and isinstance(row, str) else row for row in dataset]
        try:
            text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
        except TypeError as error:
            raise DataError(
                f"the rows cannot be written as JSON: {error}", hint="give texts, numbers and lists"
            ) from error
        dataset = directory / "dataset.jsonl"
        directory.mkdir(parents=True, exist_ok=True)
        dataset.write_text(text, encoding="utf-8")
    data = DataSettings(str(dataset))
    try:
        count = len(read_prompts(data) if reads == "prompts" else read_rows(data, layout_of(reads)))
    except DataError as error:
        raise DataError(
            f"{name} learns from {COLUMNS[reads]}; {error.what}", where=error.where, hint=error.hint
        ) from error
    return data, count
