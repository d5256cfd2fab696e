"""The trainer: a recipe, agents, tasks and parts become a run that can be killed and resumed."""

from __future__ import annotations

import atexit
import contextlib
import functools
import itertools
import json
import resource
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import attrs
import structlog
import torch
from torch import Tensor

from dovetail.agents.agent import Agent
from dovetail.compiler.compile import compile
from dovetail.errors import CheckpointError, DataError, DovetailError, RecipeError, TooManyInvalid
from dovetail.graph.graph import Graph
from dovetail.graph.recipe import Recipe, as_recipe
from dovetail.graph.types import AGENT, PROMPTS, ROLLOUTS
from dovetail.messages import Task, Tasks
from dovetail.parts import Part, check_options
from dovetail.registry import as_part
from dovetail.rollouts import Scores
from dovetail.runtime.collect import Collected
from dovetail.runtime.scoring import Offloader
from dovetail.settings import TrainSettings
from dovetail_trainer import checkpoint, refill
from dovetail_trainer.agents import check_tokenizers, complete_agents
from dovetail_trainer.allocator import keep_freed_memory
from dovetail_trainer.config.build import describe_run
from dovetail_trainer.data import Batches, encode_rows, read_prompts, read_rows
from dovetail_trainer.layouts import layout_of
from dovetail_trainer.lock import compare_lock, plugin_lock
from dovetail_trainer.manager import PartManager
from dovetail_trainer.playing import play
from dovetail_trainer.prompts import keep, kept
from dovetail_trainer.ranks import Ranks
from dovetail_trainer.run import Run
from dovetail_trainer.settings import DataSettings
from dovetail_trainer.sharing import share_work

EVALUATION_BATCH = 128
log = structlog.get_logger()


class Trainer:
    """Trains agents by a recipe. If something does not fit it is a DovetailError here, before anything has run.

    Args:
        recipe: A recipe, or its name.
        policy: The agent that learns.
        agents: Further agents by input name, such as ``value_model``. A reference that is not given is the policy as it
            was at the start, a value model the policy itself, if it has a value head.
        environment: Gives tasks, and scores completions.
        prompts: Tasks or texts, instead of an environment.
        data: Rows of an offline recipe, or of prompts: a path, or settings.
        rewards: Of the run, for the recipe's slot.
        loggers: Sinks.
        extensions: Callbacks.
        settings: All other settings at once.
        run_dir: The run's folder; by default ``runs/<recipe>-<time>``.
        single: Fields of :class:`~dovetail.settings.TrainSettings`, such as ``batch_size=16``.
    """

    def __init__(
        self,
        recipe: Recipe | str,
        *,
        policy: Agent,
        agents: Mapping[str, Agent] | None = None,
        environment: Any = None,
        prompts: Sequence[Task | str] | None = None,
        data: DataSettings | str | Path | None = None,
        rewards: Iterable[Any] = (),
        loggers: Iterable[Any] = (),
        extensions: Iterable[Any] = (),
        settings: TrainSettings | None = None,
        run_dir: str | Path | None = None,
        **single: Any,
    ) -> None:
        self.ranks = Ranks.join(policy.device)
        self.recipe = as_recipe(recipe)
        mistakes, checked = check_options(TrainSettings, single)
        if mistakes:
            raise RecipeError("; ".join(f"a trainer's settings: {text}" for _, text in mistakes))
        self.settings = attrs.evolve(settings or TrainSettings(), **checked)
        self.environment = as_part("environments", environment) if environment is not None else None
        self.rewards = [as_part("rewards", reward) for reward in rewards]
        self.loggers = [as_part("loggers", logger) for logger in loggers]
        self.extensions = [as_part("extensions", extension) for extension in extensions]
        self.data = DataSettings(str(data)) if isinstance(data, str | Path) else data
        self.prompts = None if prompts is None else [Task.of(text, id=str(row)) for row, text in enumerate(prompts)]
        if self.settings.threads:
            torch.set_num_threads(self.settings.threads)
        keep_freed_memory()
        self.given_agents = dict(agents or {})
        self.agents = complete_agents(self.recipe.trace(), policy, self.given_agents)
        bound: dict[str, Any] = {**self.agents, "settings": self.settings}
        self.compiled = compile(self.recipe, rewards=self.rewards, environment=self.environment, **bound)
        for warning in self.compiled.warnings:
            log.warning(warning)
        refill.draws_of(self.compiled)  # what cannot be drawn again is told now
        self._batches = self._make_batches()
        self.run_dir = Path(self.ranks.agree(run_dir or f"runs/{self.recipe.name}-{time.strftime('%Y%m%d-%H%M%S')}"))
        self.run = Run(self.run_dir if self.ranks.is_first else _scratch(), self.recipe.name)
        self.run.compiled, self.run.agents, self.run.batches = self.compiled, self.agents, self._batches
        named = [*filter(None, [self.environment]), *self.rewards, *self.loggers, *self.extensions]
        graph_parts = [node.op.part for node in self.compiled.graph if node.op.part and node.op.name != "reward"]
        samples = self.environment is not None or any(node.op.name == "generate" for node in self.compiled.graph)
        self.parts = [*named, *graph_parts, *_weights(self.compiled.graph), *([policy.generator] if samples else [])]
        self._listening = list(self.loggers) if self.ranks.is_first else []
        self._manager = PartManager([part for part in self.parts if part.kind != "loggers" or part in self._listening])
        share_work(self.compiled, self.ranks)
        self._saved_step = 0

    @property
    def policy(self) -> Agent:
        return self.agents["policy"]

    def _make_batches(self) -> Batches:
        graph, size, seed = self.compiled.graph, self.settings.batch_size, self.settings.seed
        inputs = {name: kind for name, kind in graph.input_types().items() if kind != AGENT and graph.readers(name)}
        if len(inputs) != 1:
            raise RecipeError(f"a trainer feeds one input, and the recipe {self.recipe.name!r} has {sorted(inputs)}")
        ((self._input, self._kind),) = inputs.items()
        self._encode: Callable[[Any], Any] = list
        if self._kind == ROLLOUTS:
            if self.data is None:
                raise DataError(f"the recipe {self.recipe.name!r} reads rows", hint="pass data=<path to a JSONL file>")
            layout = layout_of(self._input)
            self._encode = functools.partial(encode_rows, agent=self.policy, layout=layout)
            return Batches(read_rows(self.data, layout), size, seed, shuffle=self.data.shuffle, name=self.data.path)
        if self.prompts is not None:
            return Batches(self.prompts, size, seed, name="prompts")
        if self.environment is None and self._kind == PROMPTS and self.data is not None:
            return Batches(read_prompts(self.data), size, seed, shuffle=self.data.shuffle, name=self.data.path)
        if self.environment is None or self._kind != PROMPTS:
            hint = "pass environment=…, prompts=[…] or data=<a file of prompts>"
            raise DataError(f"the recipe {self.recipe.name!r} needs prompts", hint=hint)
        tasks = self.environment.call("tasks", {"split": "train"})
        return Batches(tasks, size, seed, name=f"the environment {self.environment.name!r}")

    def fit(self, steps: int) -> dict[str, float]:
        """Train until ``steps`` steps are done, counted from the start of the run; gives the metrics of the last one.

        Whatever error ends the run, its folder holds everything up to the last checkpoint.
        """
        with self.ranks.telling():
            return self._fit(steps)

    def _fit(self, steps: int) -> dict[str, float]:
        run, ranks, outcome, metrics = self.run, self.ranks, "done", dict[str, float]()
        check_tokenizers(self.compiled.graph, self.agents, self.given_agents)
        run.claim()
        run.steps = steps
        lock, config = plugin_lock(self.parts), {**describe_run(self), "steps": steps}
        if self.prompts is not None:
            keep(run.directory, self.prompts)
        run.write_text("lock.json", json.dumps(lock, indent=2) + "\n")
        run.write_text("config.json", json.dumps(config, indent=2) + "\n")
        structlog.contextvars.bind_contextvars(run=run.directory.name)
        try:
            ranks.check_weights(self.agents)
            checkpoint.restore_random_state(ranks.agree(checkpoint.random_state()))
            self._manager.broadcast("on_run_start", run=run)
            if self.settings.evaluate_every and run.step == 0:
                self._report(self.evaluate())
            while run.step < steps and run.stop_reason is None:
                metrics = self.step()
            if run.step != self._saved_step:
                self.checkpoint()
            if ranks.is_first:
                self._log("log_artifact", path=self.save(run.directory / "final"), name="final")
            ranks.gather("the end", None)  # nobody leaves while the model is being written
            outcome = f"stopped: {run.stop_reason}" if run.stop_reason else "done"
        except BaseException as error:
            outcome = f"failed: {error}"
            raise
        finally:
            self._end(outcome)
        return metrics

    def step(self) -> dict[str, float]:
        """One step: collect, learn, write, tell."""
        run, settings, started = self.run, self.settings, time.perf_counter()
        self.compiled.seed_step(run.step)
        try:
            collected, drawn = refill.collect(self.compiled, self._data, run.step)
        except TooManyInvalid as error:
            invalid = getattr(error, "collected", None)
            path = run.write_invalid(run.step + 1, invalid.rollouts) if invalid is not None else None
            error.where += (f"{path} (the samples, to score them again)",) if path else ()
            raise
        self._manager.broadcast("on_rollouts", run=run, rollouts=collected.rollouts)
        metrics = {**self.compiled.learn(collected), **run.take_metrics()}
        run.step += 1
        run.write_invalid(run.step, drawn)
        if self._kind == PROMPTS and self.ranks.is_first and self._is_due(settings.rollouts_every):
            self._write_rollouts(collected)
        if self._is_due(settings.evaluate_every):
            metrics.update(self.evaluate())
        seconds = time.perf_counter() - started
        metrics.update({"time/step": seconds, "tokens_per_second": metrics["tokens"] / seconds, "rss_mb": _rss_mb()})
        metrics = self._report(metrics)
        if self._is_due(settings.checkpoint_every):
            self.checkpoint()
        return metrics

    def _data(self, batch: int) -> dict[str, Any]:
        """What a batch of the data is to the recipe."""
        return {self._input: self._encode(self._batches(batch))}

    def _is_due(self, every: int) -> bool:
        return every > 0 and self.run.step % every == 0

    def _write_rollouts(self, collected: Collected) -> None:
        nodes = [node for node in reversed(self.compiled.plan.collect) if not self.compiled.plan.is_beside(node)]
        first = {node.op.name: collected.values[node.name].get("out") for node in nodes}
        self.run.write_rollouts(self.run.step, collected.rollouts, first.get("total"), first.get("advantages"))
        self._log("log_rollouts", step=self.run.step, rollouts=collected.rollouts)

    def _report(self, metrics: dict[str, float]) -> dict[str, float]:
        step, metrics = self.run.step, self.ranks.agree(metrics)  # times differ, and parts may steer by them
        self.run.write_metrics(step, metrics)
        self._log("log_metrics", step=step, metrics=metrics)
        self._manager.broadcast("on_step_end", run=self.run, step=step, metrics=metrics)
        self.run.stop_reason = next(filter(None, self.ranks.gather("stop", self.run.stop_reason)), None)
        return metrics

    def _log(self, hook: str, **arguments: Any) -> None:
        """Tell the loggers. One that fails is reported once and switched off: a broken sink must not cost a run."""
        for logger in [logger for logger in self._listening if logger.has(hook)]:
            try:
                logger.call(hook, arguments)
            except Exception as error:
                self._listening.remove(logger)
                log.error("a logger failed and is switched off", logger=str(logger), error=str(error))

    def evaluate(self) -> dict[str, float]:
        """Mean reward of greedy completions of the environment's test tasks; failed episodes are ``eval/invalid``."""
        environment, settings, started = self.environment, self.settings, time.perf_counter()
        if environment is None:
            raise DovetailError("an evaluation needs an environment", hint="pass environment=…, or evaluate_every=0")
        tasks = self._held_out
        greedy = attrs.evolve(settings.sampling, temperature=0.0)
        scores, lengths = defaultdict[str, list[Scores]](list), list[Tensor]()
        with contextlib.closing(Offloader()) as offloader:
            for start in range(0, len(tasks), EVALUATION_BATCH):
                chosen = Tasks(tasks[start : start + EVALUATION_BATCH])
                rollouts = play(self.policy, environment, chosen, 1, greedy, settings, offloader, ranks=self.ranks)
                lengths.append(rollouts.sampled.lengths)
                for name, given in rollouts.rewards.items():
                    scores[name].append(given)
        means = {
            name if name == "reward" else f"reward/{name}": _mean_of_valid(given) for name, given in scores.items()
        }
        return {
            **{f"eval/{name}": mean for name, mean in means.items()},
            "eval/invalid": 1 - torch.cat([given.valid for given in scores["reward"]]).float().mean().item(),
            "eval/completion_length": torch.cat(lengths).float().mean().item(),
            "time/eval": time.perf_counter() - started,
        }

    @functools.cached_property
    def _held_out(self) -> list[Task]:
        """The tasks of every evaluation."""
        assert self.environment is not None
        tasks = list(itertools.islice(self.environment.call("tasks", {"split": "test"}), self.settings.evaluate_tasks))
        if not tasks:
            raise DataError(f"the test split of the environment {self.environment.name!r} is empty")
        return tasks

    def _end(self, outcome: str) -> None:
        try:
            self._manager.broadcast("on_run_end", run=self.run, outcome=outcome)
        except Exception as error:  # the run is over; its own outcome must not be hidden by a callback
            log.error("on_run_end failed", error=str(error))
        self._log("close")
        self.compiled.close()

    def save(self, path: str | Path) -> Path:
        """Write the policy in the Hugging Face layout."""
        return self.policy.save(path)

    def checkpoint(self) -> Path:
        """Write a checkpoint: everything that the rest of the run depends on."""
        self.ranks.check_weights(self.agents)
        run, path, self._saved_step = self.run, self.run_dir / "checkpoints", self.run.step
        if self.ranks.is_first:
            path = self._write_checkpoint(path)
        self._manager.broadcast("on_checkpoint", run=run, path=self.ranks.agree(path))
        return path

    def _write_checkpoint(self, folder: Path) -> Path:
        parts = {str(i): part.instance.state_dict() for i, part in enumerate(self.parts) if part.has("state_dict")}
        state = {"parts": parts, "random": checkpoint.random_state()}
        files = {**checkpoint.agent_files(self.agents), "state.pt": state}
        keep = self.settings.keep_checkpoints
        return checkpoint.save(folder, self.run.step, files, plugin_lock(self.parts), keep)

    @classmethod
    def resume(cls, run_dir: str | Path, *, ignore_lock: bool = False) -> Trainer:
        """Rebuild a run from its folder and its newest checkpoint; ``fit`` continues it.

        A checkpoint that is damaged, or made by other versions of plugins, is a CheckpointError.
        """
        from dovetail_trainer.config.build import build
        from dovetail_trainer.config.load import load

        config = Path(run_dir) / "config.json"
        if not config.exists():
            raise CheckpointError(f"{run_dir} is no run: it has no config.json", hint="give the folder of a run")
        trainer = build(load(config), run_dir=run_dir, prompts=kept(Path(run_dir)))
        trainer.load_checkpoint(ignore_lock=ignore_lock)
        return trainer

    def load_checkpoint(self, *, ignore_lock: bool = False) -> None:
        """Continue from the newest checkpoint of the run's folder, or from the start if there is none yet."""
        found = checkpoint.found(self.run_dir / "checkpoints")
        if len(seen := set(self.ranks.gather("checkpoints", found[-1].name if found else "none"))) > 1:
            problem = f"the processes see different checkpoints in {self.run_dir}: {', '.join(sorted(seen))}"
            raise CheckpointError(problem, hint="put the run's folder where all machines can read it")
        if found:
            saved = checkpoint.load(found[-1])
            differences = compare_lock(saved["lock"], plugin_lock(self.parts))
            if differences and not ignore_lock:
                problem = f"the checkpoint {found[-1]} was made by other versions"
                hint = "install those versions, or accept the difference with --ignore-lock"
                raise CheckpointError(problem, where=differences, hint=hint)
            checkpoint.restore_agents(self.agents, saved)
            for index, state in saved["state.pt"]["parts"].items():
                self.parts[int(index)].instance.load_state_dict(state)
            checkpoint.restore_random_state(saved["state.pt"]["random"])
            self._saved_step = saved["step"]
        self.run.rewind(self._saved_step)


def _mean_of_valid(given: Sequence[Scores]) -> float:
    return torch.cat([scores.values[scores.valid] for scores in given]).mean().item()


def _scratch() -> Path:
    """A folder, until the process ends, for what parts of a process write that is not the first."""
    folder = tempfile.TemporaryDirectory(prefix="dovetail-")
    atexit.register(folder.cleanup)
    return Path(folder.name)


def _weights(graph: Graph) -> list[Part]:
    """The parts that say how rewards count in the total."""
    named = [weight for node in graph for weight in (node.options.get("weight"), *node.options.get("weights", ()))]
    return [weight for weight in named if isinstance(weight, Part)]


def _rss_mb() -> float:
    """Resident memory of this process in MB; its peak where there is no /proc."""
    try:
        pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
        return pages * resource.getpagesize() / 2**20
    except OSError:  # macOS, which counts its peak in bytes
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
