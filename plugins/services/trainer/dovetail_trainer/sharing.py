"""Generation by several processes: each answers its share of the prompts, and all have all answers."""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any

import attrs

from dovetail.agents.agent import Agent
from dovetail.compiler.compile import Compiled
from dovetail.errors import UserError
from dovetail.graph.ops import SAMPLERS
from dovetail.messages import Tasks
from dovetail.parts import Part
from dovetail.ragged import Ragged
from dovetail.rollouts import Generated
from dovetail.runtime.scoring import Offloader
from dovetail.sampling import Sampling
from dovetail_trainer.joining import one_batch
from dovetail_trainer.ranks import Ranks


def share_work(compiled: Compiled, ranks: Ranks) -> None:
    """Let the processes of a run share the work of its steps; a UserError if there are more than prompts in a step."""
    context, size = compiled.plan.context, compiled.plan.context.settings.batch_size
    if ranks.count == 1:
        return
    if size < ranks.count:
        problem = f"{ranks.count} processes cannot share a batch of {size}"
        raise UserError(problem, hint=f"batch_size={ranks.count} or more, or fewer processes")
    context.ranks = ranks
    if context.driver is not None:
        context.driver = SharedDriver(context.driver, ranks)
    asked = {node.inputs["policy"].node for node in compiled.graph if node.op.name in SAMPLERS}
    asked |= {"policy"} & context.agents.keys() if context.driver is not None else set()  # for evaluations
    for agent in [context.agents[name] for name in sorted(asked)]:
        if not isinstance(agent.generator, _SharedGenerator):
            fields = {field.name: getattr(agent.generator, field.name) for field in attrs.fields(Part)}
            vars(agent)["generator"] = _SharedGenerator(ranks, fields)


class _SharedGenerator(Part):
    """Has each process answer its share of the prompts, with the seeds that one process would use."""

    def __init__(self, ranks: Ranks, fields: Mapping[str, Any]) -> None:
        super().__init__(**fields)
        self._ranks = ranks

    def call(self, hook: str, available: Mapping[str, Any]) -> Any:
        if hook != "generate" or self._ranks.is_apart:
            return super().call(hook, available)
        prompts, samples = available["prompts"], available["samples"]
        places, generated = self._ranks.share(len(prompts)), None
        if places:
            seeds = available["seeds"].view(-1, samples)[places].flatten()
            generated = super().call(hook, {**available, "prompts": prompts.select(places), "seeds": seeds})
            columns = {name: getattr(generated, name).to("cpu") for name in ("completions", "logprobs")}
            generated = attrs.evolve(generated, **columns)
        shares = [share for share in self._ranks.gather("completions", generated) if share is not None]
        return Generated(
            Ragged.cat([share.completions for share in shares]),
            Ragged.cat([share.logprobs for share in shares]),
            tuple(reason for share in shares for reason in share.finish_reasons),
        )


class SharedDriver:
    """Plays whole episodes: each process those of its share of the tasks."""

    def __init__(self, driver: Any, ranks: Ranks) -> None:
        self._driver, self._ranks = driver, ranks

    @property
    def many_turns(self) -> bool:
        return bool(self._driver.many_turns)

    def reward(self) -> Part:
        part: Part = self._driver.reward()
        return part

    def play(
        self, agent: Agent, tasks: Tasks, samples: int, sampling: Sampling, seed: int, offloader: Offloader
    ) -> dict[str, Any]:
        """As the driver does; metrics are means over the episodes of all processes."""
        places, mine = self._ranks.share(len(tasks)), None
        if places:
            with self._apart():
                played = self._driver.play(agent, tasks, samples, sampling, seed, offloader, places)
            # The tokenizer stays: every process has its own.
            mine = len(places), played["metrics"], attrs.evolve(played["out"], decode=None)
        shares = [share for share in self._ranks.gather("episodes", mine) if share is not None]
        metrics: Counter[str] = Counter()
        for count, means, _ in shares:
            metrics.update({name: mean * count / len(tasks) for name, mean in means.items()})
        rollouts = one_batch([rollouts for _, _, rollouts in shares])
        return {"out": attrs.evolve(rollouts, decode=agent.decode), "metrics": dict(metrics)}

    @contextlib.contextmanager
    def _apart(self) -> Iterator[None]:
        self._ranks.is_apart = True
        try:
            yield
        finally:
            self._ranks.is_apart = False
