"""The trainer: a recipe, agents, tasks and parts become a run that can be killed and resumed."""

from __future__ import annotations

import functools
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import attrs
import structlog
import torch

from dovetail.agents.agent import Agent
from dovetail.compiler.compile import Compiled, compile
from dovetail.config.build import describe_run
from dovetail.errors import CheckpointError, DataError, DovetailError, RecipeError, TooManyInvalid, did_you_mean
from dovetail.graph.graph import Graph
from dovetail.graph.node import Ref
from dovetail.graph.recipe import Recipe, as_recipe
from dovetail.graph.types import AGENT, PROMPTS, ROLLOUTS
from dovetail.lock import compare_lock, plugin_lock
from dovetail.messages import Task
from dovetail.parts import Part, PartManager
from dovetail.registry import as_part
from dovetail.runtime.collect import Collected
from dovetail.settings import DataSettings, TrainSettings
from dovetail.training import checkpoint
from dovetail.training.batches import Batches
from dovetail.training.data import encode_rows, read_rows
from dovetail.training.evaluation import evaluate, held_out_tasks
from dovetail.training.run import Run, default_run_dir
from dovetail.training.sinks import Sinks
from dovetail.training.state import load_agents, save_agents

log = structlog.get_logger()


class Trainer:
    """Trains agents by a recipe.

    Args:
        recipe: A recipe, or its name.
        policy: The agent that learns.
        agents: Further agents by input name, such as ``value_model``. A reference that is not given is the policy as
            it was at the start.
        environment: Gives tasks, and scores completions.
        prompts: Tasks or texts, instead of an environment.
        data: Rows of an offline recipe: a path, or settings.
        rewards: Of the run, for the recipe's slot.
        loggers: Sinks.
        extensions: Callbacks.
        settings: All other settings at once; single ones can be given by name, such as ``batch_size=16``.
        run_dir: The run's folder; by default ``runs/<recipe>-<time>``.
        single: Fields of :class:`~dovetail.settings.TrainSettings`.

    Raises:
        DovetailError: Something does not fit; nothing has been run.
    """

    def __init__(
        self,
        recipe: Recipe | str,
        *,
        policy: Agent,
        agents: Mapping[str, Agent] | None = None,
        environment: Any = None,
        prompts: Sequence[Task | str] | None = None,
        data: DataSettings | str | None = None,
        rewards: Iterable[Any] = (),
        loggers: Iterable[Any] = (),
        extensions: Iterable[Any] = (),
        settings: TrainSettings | None = None,
        run_dir: str | Path | None = None,
        **single: Any,
    ) -> None:
        self.recipe = as_recipe(recipe)
        self.settings = _settings(settings or TrainSettings(), single)
        self.environment = as_part("environments", environment) if environment is not None else None
        self.rewards = [as_part("rewards", reward) for reward in rewards]
        self.loggers = [as_part("loggers", logger) for logger in loggers]
        self.extensions = [as_part("extensions", extension) for extension in extensions]
        self.data = DataSettings(data) if isinstance(data, str) else data
        self.prompts = (
            [Task.of(prompt, id=str(row)) for row, prompt in enumerate(prompts)] if prompts is not None else None
        )
        if self.settings.threads:
            torch.set_num_threads(self.settings.threads)
        policy.trainable = True
        graph = self.recipe.trace()
        self.given_agents = dict(agents or {})
        self.agents = {**_with_references(graph, policy, self.given_agents), **self.given_agents, "policy": policy}
        bound: dict[str, Any] = dict(self.agents)
        self.compiled: Compiled = compile(
            self.recipe,
            rewards=self.rewards,
            environment=self.environment,
            settings=self.settings,
            **bound,
        )
        for warning in self.compiled.warnings:
            log.warning(warning)
        self._batches = self._make_batches()
        self.run = Run(Path(run_dir) if run_dir else default_run_dir(self.recipe.name), self.recipe.name)
        parts = [*([self.environment] if self.environment else []), *self.rewards, *self.loggers, *self.extensions]
        graph_parts = [node.op.part for node in self.compiled.graph if node.op.part and node.op.name != "reward"]
        self.parts: list[Part] = [*parts, *graph_parts, policy.generator]
        self._manager = PartManager(self.parts)
        self._sinks = Sinks(self.loggers)

    @property
    def policy(self) -> Agent:
        return self.agents["policy"]

    def _make_batches(self) -> Batches:
        kinds = self.compiled.graph.input_types()
        inputs = {name: kind for name, kind in kinds.items() if kind != AGENT and self.compiled.graph.readers(name)}
        if len(inputs) != 1:
            raise RecipeError(f"a trainer feeds one input, and the recipe {self.recipe.name!r} has {sorted(inputs)}")
        ((self._input, kind),) = inputs.items()
        settings = self.settings
        if kind == ROLLOUTS:
            if self.data is None:
                raise DataError(f"the recipe {self.recipe.name!r} reads rows", hint="pass data=<path to a JSONL file>")
            rows = read_rows(self.data)
            self._encode: Callable[[Any], Any] = functools.partial(encode_rows, agent=self.policy)
            return Batches(rows, settings.batch_size, settings.seed, shuffle=self.data.shuffle, name=self.data.path)
        self._encode = list
        if self.prompts is not None:
            return Batches(self.prompts, settings.batch_size, settings.seed, name="prompts")
        if self.environment is None or kind != PROMPTS:
            raise DataError(f"the recipe {self.recipe.name!r} needs prompts", hint="pass environment=… or prompts=[…]")
        tasks = self.environment.call("tasks", {"split": "train"})
        return Batches(tasks, settings.batch_size, settings.seed, name=f"the environment {self.environment.name!r}")

    # ---- the loop

    def fit(self, steps: int) -> dict[str, float]:
        """Train until ``steps`` steps are done, counted from the start of the run.

        Returns:
            The metrics of the last step.

        Raises:
            DovetailError: The run failed; its folder holds everything up to the last checkpoint.
        """
        run, outcome, metrics = self.run, "done", dict[str, float]()
        run.steps = steps
        self._write_config(steps)
        structlog.contextvars.bind_contextvars(run=run.directory.name)
        self._manager.broadcast("on_run_start", run=run)
        try:
            if self.settings.evaluate_every and run.step == 0:
                self._report(0, self.evaluate())
            while run.step < steps and run.stop_reason is None:
                metrics = self.step()
            if run.step and not self._just_saved:
                self.checkpoint()
            self._save_final()
            outcome = f"stopped: {run.stop_reason}" if run.stop_reason else "done"
        except BaseException as error:
            outcome = f"failed: {error}"
            raise
        finally:
            self._end(outcome)
        return metrics

    _just_saved = False

    def step(self) -> dict[str, float]:
        """One step: collect, learn, write, tell."""
        run, settings, started = self.run, self.settings, time.perf_counter()
        seed = settings.seed * 1_000_003 + run.step
        self.compiled.seed_step(run.step)
        try:
            data: dict[str, Any] = {self._input: self._encode(self._batches(run.step))}
            collected = self.compiled.collect(seed=seed, **data)
        except TooManyInvalid as error:
            self._dump_failed(error)
            raise
        self._manager.broadcast("on_rollouts", run=run, rollouts=collected.rollouts)
        metrics = self.compiled.learn(collected)
        run.step += 1
        run.write_invalid(run.step, collected.rollouts)
        if settings.rollouts_every and run.step % settings.rollouts_every == 0 and self._input == "prompts":
            self._write_rollouts(collected)
        if settings.evaluate_every and run.step % settings.evaluate_every == 0:
            metrics.update(self.evaluate())
        seconds = time.perf_counter() - started
        metrics.update({"time/step": seconds, "tokens_per_second": metrics["tokens"] / seconds, "rss_mb": _rss_mb()})
        self._report(run.step, metrics)
        self._just_saved = bool(settings.checkpoint_every) and run.step % settings.checkpoint_every == 0
        if self._just_saved:
            self.checkpoint()
        return metrics

    def _report(self, step: int, metrics: Mapping[str, float]) -> None:
        self.run.write_metrics(step, metrics)
        self._sinks.metrics(step, metrics)
        self._manager.broadcast("on_step_end", run=self.run, step=step, metrics=metrics)

    def _write_rollouts(self, collected: Collected) -> None:
        values = collected.values
        total = next((values[n.name]["out"] for n in self.compiled.plan.collect if n.op.name == "total"), None)
        credit = next((values[n.name]["out"] for n in self.compiled.plan.collect if n.op.name == "advantages"), None)
        extra = {"reward": total.values if total is not None else None, "advantage": credit}
        self.run.write_rollouts(self.run.step, collected.rollouts, extra)
        self._sinks.rollouts(self.run.step, collected.rollouts)

    def _dump_failed(self, error: TooManyInvalid) -> None:
        collected = getattr(error, "collected", None)
        path = self.run.write_invalid(self.run.step + 1, collected.rollouts) if collected is not None else None
        if path is not None:
            error.where = (*error.where, f"{path} (the samples, to score them again)")

    def evaluate(self) -> dict[str, float]:
        """Greedy evaluation on the environment's test split.

        Raises:
            DovetailError: There is no environment.
        """
        if self.environment is None:
            raise DovetailError("an evaluation needs an environment", hint="pass environment=…, or evaluate_every=0")
        tasks = held_out_tasks(self.environment, self.settings.evaluate_tasks)
        return evaluate(self.policy, self.environment, tasks, self.settings.sampling)

    # ---- files

    def save(self, path: str | Path) -> Path:
        """Write the policy in the Hugging Face layout."""
        return self.policy.save(path)

    def _save_final(self) -> None:
        path = self.save(self.run.directory / "final")
        self._sinks.artifact(path, "final")

    def checkpoint(self) -> Path:
        """Write a checkpoint: everything that the rest of the run depends on."""
        parts = {str(i): part.instance.state_dict() for i, part in enumerate(self.parts) if part.has("state_dict")}
        files = {
            **save_agents(self.agents),
            "lock.json": plugin_lock(self.parts),
            "state.pt": {"parts": parts, "random": checkpoint.random_state()},
        }
        path = checkpoint.save(self.run.directory / "checkpoints", self.run.step, files, self.settings.keep_checkpoints)
        self._manager.broadcast("on_checkpoint", run=self.run, path=path)
        return path

    def _write_config(self, steps: int) -> None:
        import json

        config = {**describe_run(self), "steps": steps}
        (self.run.directory / "config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
        lock = json.dumps(plugin_lock(self.parts), indent=2)
        (self.run.directory / "lock.json").write_text(lock + "\n", encoding="utf-8")

    @classmethod
    def resume(cls, run_dir: str | Path, *, ignore_lock: bool = False) -> Trainer:
        """Rebuild a run from its folder and its newest checkpoint; ``fit`` continues it.

        Raises:
            CheckpointError: There is no such run, the checkpoint is damaged, or it was made by other plugin versions.
        """
        from dovetail.config.build import build
        from dovetail.config.load import load

        folder = Path(run_dir)
        if not (folder / "config.json").exists():
            raise CheckpointError(f"{folder} is no run: it has no config.json", hint="give the folder of a run")
        trainer = build(load(folder / "config.json"), run_dir=folder)
        trainer.load_checkpoint(ignore_lock=ignore_lock)
        return trainer

    def load_checkpoint(self, *, ignore_lock: bool = False) -> None:
        """Continue from the newest checkpoint of the run's folder, or from the start if there is none yet."""
        found = checkpoint.found(self.run.directory / "checkpoints")
        saved: dict[str, Any] = checkpoint.load(found[-1]) if found else {"step": 0}
        if found:
            differences = compare_lock(saved["lock.json"], plugin_lock(self.parts))
            if differences and not ignore_lock:
                raise CheckpointError(
                    f"the checkpoint {found[-1]} was made by other versions",
                    where=differences,
                    hint="install those versions, or accept the difference with --ignore-lock",
                )
            load_agents(self.agents, saved)
            for index, state in saved["state.pt"]["parts"].items():
                self.parts[int(index)].instance.load_state_dict(state)
            checkpoint.restore_random_state(saved["state.pt"]["random"])
        self.run.rewind(saved["step"])

    def _end(self, outcome: str) -> None:
        try:
            self._manager.broadcast("on_run_end", run=self.run, outcome=outcome)
        except Exception as error:  # the run is over; its own outcome must not be hidden by a callback
            log.error("on_run_end failed", error=str(error))
        self._sinks.close()
        self.run.close()
        self.compiled.close()


def _settings(settings: TrainSettings, single: Mapping[str, Any]) -> TrainSettings:
    known = [field.name for field in attrs.fields(TrainSettings)]
    for name in single:
        if name not in known:
            raise RecipeError(f"a trainer has no setting {name!r}", hint=did_you_mean(name, known))
    return attrs.evolve(settings, **single)


def _with_references(graph: Graph, policy: Agent, given: Mapping[str, Agent]) -> dict[str, Agent]:
    """A frozen policy for each agent that was not given and that only log-probs are taken of."""
    references = {}
    for name, kind in graph.input_types().items():
        readers = graph.readers(name)
        if kind == AGENT and name not in given and name != "policy" and all(_takes_logprobs(r) for r in readers):
            references[name] = policy.frozen()
    return references


def _takes_logprobs(reader: tuple[Any, str, Ref]) -> bool:
    return str(reader[0].op.name) == "logprobs"


def _rss_mb() -> float:
    """Resident memory of this process, in MB."""
    try:
        pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    except (OSError, IndexError, ValueError):
        import resource

        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return pages * 4096 / 2**20
