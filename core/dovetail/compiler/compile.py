"""``dt.compile``: a recipe and its agents become something that runs."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal

import attrs

from dovetail.compiler.bind import bind, require_agents
from dovetail.compiler.checks import check_learning
from dovetail.compiler.partition import partition
from dovetail.compiler.plan import Context, Pass, Plan
from dovetail.compiler.schedule import schedule
from dovetail.compiler.simplify import drop_dead, fold, fuse, merge_common
from dovetail.errors import RecipeError, did_you_mean
from dovetail.graph.graph import Graph
from dovetail.graph.recipe import Recipe, as_recipe
from dovetail.graph.types import AGENT
from dovetail.parts import Part
from dovetail.registry import as_part
from dovetail.runtime.collect import Collected, Collector
from dovetail.runtime.learn import Learner
from dovetail.runtime.observe import Watch
from dovetail.runtime.offload import Offloader
from dovetail.sampling import Sampling
from dovetail.settings import TrainSettings

SIMPLIFY: tuple[Pass, ...] = (fold, merge_common, drop_dead)
Mode = Literal["auto", "eager"]


class Compiled:
    """A recipe bound to its agents.

    ``run`` does one step. ``explain`` tells what each pass did. ``graph`` can be drawn.
    """

    def __init__(self, plan: Plan, context: Context, settings: TrainSettings, mode: Mode) -> None:
        self.plan = plan
        self.mode = mode
        self.settings = settings
        self._context = context
        self._offloader = Offloader()
        self._collector = Collector(plan, context, settings, self._offloader)
        self._learner = Learner(plan, context, settings)
        self._steps = 0
        self.trace: list[str] = []

    @property
    def graph(self) -> Graph:
        return self.plan.graph

    @property
    def warnings(self) -> tuple[str, ...]:
        """What the static checks advise against."""
        return tuple(self._context.warnings)

    def explain(self) -> str:
        """A line for each thing that a pass did, and the warnings of the static checks."""
        return "\n".join([*self._context.notes, *(f"warning: {line}" for line in self._context.warnings)])

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
        watch = Watch(self.graph, breakpoints) if trace or breakpoints else None
        collected = self.collect(seed=seed, watch=watch, **data)
        metrics = self.learn(collected, watch=watch)
        self.trace = watch.lines if watch else []
        return metrics

    def collect(self, *, seed: int | None = None, watch: Watch | None = None, **data: Any) -> Collected:
        """The first half of a step: everything but learning.

        Raises:
            RecipeError: An input is missing or unknown.
        """
        self._check_data(data)
        seed = self.settings.seed * 1_000_003 + self._steps if seed is None else seed
        return self._collector.run(data, seed, share_passes=self.mode != "eager", observe=watch)

    def learn(self, collected: Collected, *, update: bool = True, watch: Watch | None = None) -> dict[str, float]:
        """The second half. With ``update=False`` gradients are left on the parameters and no optimizer steps."""
        seed = self.settings.seed * 1_000_003 + self._steps
        learnt = self._learner.run(collected, seed, share_passes=self.mode != "eager", update=update, observe=watch)
        self._steps += 1
        seconds = {f"time/{name}": value for name, value in collected.seconds.items()}
        return {**collected.metrics, **learnt, **seconds}

    def seed_step(self, step: int) -> None:
        """Say which step comes next: what is drawn in it depends on the seed and this number alone."""
        self._steps = step

    def _check_data(self, data: Mapping[str, Any]) -> None:
        wanted = [name for name, kind in self.graph.input_types().items() if kind != AGENT and self.graph.readers(name)]
        for name in data:
            if name not in wanted:
                raise RecipeError(f"the recipe has no input {name!r}", hint=did_you_mean(name, wanted))
        for name in wanted:
            if name not in data:
                raise RecipeError(f"the input {name!r} is missing", hint=f"compiled.run({name}=…)")

    def close(self) -> None:
        """Stop what runs beside."""
        self._offloader.close()


def compile(
    algorithm: Recipe | str,
    *,
    rewards: Sequence[Any] = (),
    environment: Part | None = None,
    mode: Mode = "auto",
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
    options = {name: value for name, value in agents_and_options.items() if name not in recipe.inputs}
    graph = recipe(**options).trace()
    settings = settings or TrainSettings()
    context = Context(
        agents={name: value for name, value in agents_and_options.items() if name in recipe.inputs},
        rewards=tuple(as_part("rewards", reward) for reward in rewards),
        environment=environment,
        sampling=sampling or settings.sampling,
    )
    passes = (bind, check_learning, *(() if mode == "eager" else (*SIMPLIFY, fuse)), require_agents)
    for step in passes:
        graph = step(graph, context).check()
    plan = partition(graph, context, share_live=mode != "eager")
    if mode != "eager":
        plan = schedule(plan, context)
    return Compiled(plan, context, attrs.evolve(settings, sampling=context.sampling), mode)
