"""``dt.compile``: a recipe and its agents become something that runs."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, Literal

import attrs

from dovetail import catalog, load
from dovetail.compiler.passes import bind, check_learning, drop_dead, fold, merge_common, require_agents
from dovetail.compiler.plan import Context, Plan, partition, schedule
from dovetail.errors import RecipeError, did_you_mean
from dovetail.graph.graph import Graph
from dovetail.graph.recipe import Recipe, as_recipe
from dovetail.graph.types import AGENT
from dovetail.parts import HOOKS_BY_KIND, Part
from dovetail.registry import as_part
from dovetail.runtime.collect import Collected
from dovetail.runtime.learn import Learning
from dovetail.runtime.scoring import Offloader, driver_of
from dovetail.sampling import Sampling
from dovetail.settings import TrainSettings


class Compiled:
    """A recipe bound to its agents. ``run`` does one step; ``trace`` holds the lines of the last traced one."""

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self.trace: list[str] = []
        self._offloader = Offloader()
        for node in plan.collect:  # what no worker process can score is told now, before anything has run
            if node.op.part and node.op.part.in_process:
                self._offloader.worker(node.op.part)

    @property
    def graph(self) -> Graph:
        """What runs, for drawing."""
        return self.plan.graph

    @property
    def warnings(self) -> tuple[str, ...]:
        """What the static checks advise against."""
        return tuple(self.plan.context.warnings)

    def explain(self) -> str:
        """A line for each thing that a pass did, and the warnings of the static checks."""
        return "\n".join([*self.plan.context.notes, *(f"warning: {line}" for line in self.warnings)])

    def run(
        self, *, trace: bool = False, breakpoints: Iterable[str] = (), seed: int | None = None, **data: Any
    ) -> dict[str, float]:
        """One step: sample, score, estimate, learn.

        Args:
            trace: Keep a line for each node (shape, mean, spread, seconds) in ``compiled.trace``.
            breakpoints: Node names at which Python's debugger stops, with the inputs at hand.
            seed: Of everything drawn; without it the settings' seed and the number of runs so far.
            data: The inputs that are no agents, such as ``prompts=[…]``.

        Returns:
            Metrics: ``loss``, ``reward/…``, ``kl_to_sampler``, times, …
        """
        watch = load("dovetail_trainer.watch").Watch(self.graph, breakpoints) if trace or breakpoints else None
        metrics = self.learn(self.collect(seed=seed, watch=watch, **data), watch=watch)
        self.trace = watch.lines if watch else []
        return metrics

    def collect(self, *, seed: int | None = None, watch: Any = None, **data: Any) -> Collected:
        """The first half of a step: everything but learning.

        An input that is missing or unknown is a RecipeError, more rows without a valid reward than ``max_invalid``
        allows are TooManyInvalid.
        """
        wanted = [name for name, kind in self.graph.input_types().items() if kind != AGENT and self.graph.readers(name)]
        for name in data:
            if name not in wanted:
                raise RecipeError(f"the recipe has no input {name!r}", hint=did_you_mean(name, wanted))
        for name in wanted:
            if name not in data:
                raise RecipeError(f"the input {name!r} is missing", hint=f"compiled.run({name}=…)")
        seed = self.plan.context.settings.seed * 1_000_003 + self.plan.context.step if seed is None else seed
        collected = Collected(self.plan, data, seed, self._offloader, watch)
        collected.run()
        return collected

    def learn(self, collected: Collected, *, update: bool = True, watch: Any = None) -> dict[str, float]:
        """The second half. With ``update=False`` gradients are left on the parameters and no optimizer steps.

        A loss or a gradient that is not finite is a DovetailError; the weights are as before the optimizer step.
        """
        learnt = Learning(self.plan, collected, watch).run(update=update)
        self.plan.context.step += 1
        return {**collected.metrics, **learnt, **{f"time/{name}": value for name, value in collected.seconds.items()}}

    def seed_step(self, step: int) -> None:
        """Say which step comes next: what is drawn in it depends on the seed and this number alone."""
        self.plan.context.step = step

    def close(self) -> None:
        """Stop what runs beside."""
        self._offloader.close()


def _asked_for(graph: Graph, wanted: Sequence[str]) -> list[Any]:
    """Passes of plugins: ``wanted`` ones, and what a hook or function of the graph names in its attribute ``passes``."""
    parts = [node.op.part for node in graph if node.op.part]
    functions = [getattr(part.instance, hook, None) for part in parts for hook in HOOKS_BY_KIND[part.kind]]
    functions += [node.op.function for node in graph]
    names = sorted({*wanted, *(name for function in functions for name in getattr(function, "passes", ()))})
    return [catalog.find("passes", name).load() for name in names]


def compile(
    algorithm: Recipe | str,
    *,
    rewards: Sequence[Any] = (),
    environment: Part | None = None,
    mode: Literal["auto", "eager"] = "auto",
    settings: TrainSettings | None = None,
    sampling: Sampling | None = None,
    **agents_and_options: Any,
) -> Compiled:
    """Validate a recipe, make it fast, and give something that runs.

    Args:
        algorithm: A recipe or its name.
        rewards: Of the run, for the recipe's slot.
        environment: Whose episodes score the completions.
        mode: ``eager`` runs node by node, on whole batches, with no pass that changes the graph.
        settings: Of the run; the sampling in it can be given as ``sampling``.
        sampling: How completions are drawn.
        agents_and_options: Agents by input name (``policy=…``), and the recipe's options.

    Raises:
        RecipeError: The recipe, or what it was given, does not fit.
    """
    recipe = as_recipe(algorithm)
    agents = {name: value for name, value in agents_and_options.items() if name in recipe.inputs}
    options = {name: value for name, value in agents_and_options.items() if name not in recipe.inputs}
    settings = settings or TrainSettings()
    settings = attrs.evolve(settings, sampling=sampling or settings.sampling)
    parts = tuple(as_part("rewards", reward) for reward in rewards)
    driver = driver_of(environment, settings) if environment else None
    context = Context(agents, settings, parts, driver, eager=mode == "eager")
    graph = recipe(**options).trace()
    for step in (bind, check_learning):
        graph = step(graph, context).check()
    simplify = [] if context.eager else [fold, merge_common, drop_dead, *_asked_for(graph, settings.passes)]
    for step in (*simplify, require_agents):
        graph = step(graph, context).check()
    plan = partition(graph, context)
    return Compiled(plan if context.eager else schedule(plan))
