"""The collect half of a plan: once a step, without gradients."""

from __future__ import annotations

import math
import operator
from collections import Counter
from collections.abc import Collection, Mapping
from concurrent.futures import wait
from functools import partial
from typing import Any

import torch
from torch import Tensor

from dovetail.compiler.plan import Plan
from dovetail.errors import TooManyInvalid
from dovetail.graph.node import Node
from dovetail.graph.ops import ROLLOUT, SAMPLERS
from dovetail.messages import Task, Tasks
from dovetail.rollouts import Rollouts, Scores
from dovetail.runtime.evaluate import Outputs, broken, estimate, read_outputs, start_function, weigh
from dovetail.runtime.execute import Execution
from dovetail.runtime.forward import forward_all
from dovetail.runtime.scoring import Offloader


class Collected(Execution):
    """The collect nodes of a plan, and what they gathered before the step learns.

    ``data`` has the value of each input that is no agent: tasks for prompts, rollouts for offline data.
    """

    rollouts: Rollouts  # with the scores of every reward, without the recipe's weights
    valid: Tensor  # [B] bool, rows that may enter the loss
    metrics: dict[str, float]

    def __init__(self, plan: Plan, data: Mapping[str, Any], seed: int, offloader: Offloader, watch: Any) -> None:
        given = {name: {"out": value} for name, value in data.items()}
        super().__init__(plan, plan.collect, given, self._forward_all, watch)
        self.seed, self._offloader = seed, offloader
        self._settings = plan.context.settings
        # What is computed beside this thread: the node, its inputs, and the work to wait for.
        self._running: dict[str, tuple[Node, Outputs, Any]] = {}
        self._rewards: dict[str, Scores] = {}  # by label

    def run(self) -> None:
        """Run once; TooManyInvalid tells if more rows than ``max_invalid`` have no valid reward."""
        super().run()
        values = {name: self.outputs(name) for name in self.values}
        rollouts, *_ = [self.read(ref) for ref in (self.plan.rollouts, *self.plan.carried)]
        self.rollouts = rollouts.with_rewards(**self._rewards)
        self.valid = torch.ones(len(rollouts), dtype=torch.bool)
        for name in self.plan.graph.ancestors(loss.ref.node for loss in self.plan.graph.losses) & values.keys():
            scores = values[name].get("out")
            if isinstance(scores, Scores) and len(scores) == len(rollouts):
                self.valid &= scores.valid
        self.metrics = self._measure()
        self._refuse_too_many_invalid()

    def _measure(self) -> dict[str, float]:
        metrics: dict[str, float] = {}
        for label, scores in self.rollouts.rewards.items():
            metrics[f"reward/{label}"], metrics[f"reward_std/{label}"] = _mean_and_spread(scores)
            metrics[f"invalid/{label}"] = 1 - _mean(scores.valid, empty=1)
        for node in self.nodes:
            outputs, label = self.values[node.name], (node.op.part or (node if node.op.function else node.op)).name
            if node.op.name == "total":
                name = node.name if self.plan.is_beside(node) else "reward"
                metrics[name], metrics[f"{name}_std"] = _mean_and_spread(outputs["out"])
                metrics.update({f"weight/{name}": float(weight) for name, weight in outputs["weights"].items()})
            metrics.update({f"{label}/{name}": float(number) for name, number in outputs.get("metrics", {}).items()})
        metrics["invalid"] = 1 - _mean(self.valid, empty=1)
        metrics["tokens"] = float(len(self.rollouts.sampled.values))
        metrics["completion_length"] = _mean(self.rollouts.sampled.lengths)
        metrics["truncated"] = _mean(self.rollouts.truncated)
        return metrics

    def _refuse_too_many_invalid(self) -> None:
        share, allowed = self.metrics["invalid"], self._settings.max_invalid
        if share > allowed:
            rewards = self.rollouts.rewards.items()
            reasons = Counter(f"{label}: {reason}" for label, scores in rewards for reason in scores.reasons.values())
            error = TooManyInvalid(
                f"{share:.0%} of the samples have no valid reward, and max_invalid allows {allowed:.0%}",
                where=[f"most often, {reason}" for reason, _ in reasons.most_common(1)],
                hint="mend the reward, or raise max_invalid",
            )
            error.collected = self  # type: ignore[attr-defined]
            raise error

    def outputs(self, name: str) -> Outputs:
        """Of a node that has run; what is still being computed beside this thread is awaited."""
        if name in self._running:
            node, inputs, work = self._running.pop(name)
            if node.op.part:
                scores = work.result()
                if not self.plan.is_beside(node):
                    self._rewards[node.op.part.label] = scores
                counted, weight = weigh(scores, node.options.get("weight", 1.0), self.plan.context.step)
                self.values[name] = {"out": counted.combine(weight, operator.mul)}
            elif not wait([work], self._settings.reward_timeout).done:
                work.cancel()
                hint = "raise reward_timeout"
                raise broken(node, f"gave no answer within {self._settings.reward_timeout:g} s", hint)
            else:
                self.values[name] = read_outputs(node, self.plan.context.ranks.agree(work.result()), inputs)
        return self.values[name]

    def operate(self, node: Node, inputs: dict[str, Any]) -> Outputs:
        part, ranks, timeout = node.op.part, self.plan.context.ranks, self._settings.reward_timeout
        if part and node.op.offload:
            for other in [name for name, (running, *_) in self._running.items() if running.op.part is part]:
                self.outputs(other)  # a reward is asked for one batch at a time
            self._running[node.name] = node, inputs, ranks.score(part, inputs["rollouts"], self._offloader, timeout)
        elif node.op.offload:
            work = ranks.submit(self._offloader, partial(start_function, node, inputs))
            self._running[node.name] = node, inputs, work
        elif part:
            return estimate(node, inputs, inputs["rollouts"])
        elif node.op.name in SAMPLERS:
            return self._sample(node, inputs)
        else:
            with torch.no_grad():
                return super().operate(node, inputs)
        return {}

    def _sample(self, node: Node, inputs: Outputs) -> Outputs:
        context, samples = self.plan.context, node.options.get("samples", 1)
        agent, sampling = context.agents[node.inputs["policy"].node], context.sampling_of(node)
        if node.op.function:
            return dict(node.op.function(agent, inputs, samples, sampling, self.seed))
        tasks = Tasks([Task.of(prompt, id=str(row)) for row, prompt in enumerate(inputs["prompts"])])
        if node.op is ROLLOUT:
            return dict(context.driver.play(agent, tasks, samples, sampling, self.seed, self._offloader))
        prompts = agent.encode(tasks)
        seeds = torch.randint(0, 2**62, (len(tasks) * samples,), generator=torch.Generator().manual_seed(self.seed))
        generated = agent.generate(prompts, samples, sampling, seeds)
        facts = {"sampling": sampling, "policy_version": agent.version, "decode": agent.decode}
        return {"out": Rollouts.single_turn(prompts, generated, tasks, samples=samples, **facts)}

    def _forward_all(self, agent: Any, rollouts: Rollouts, wanted: Collection[str]) -> Outputs:
        context = self.plan.context
        outputs = forward_all(agent, rollouts, wanted, context.micro_batch_tokens, context.ranks)
        return {name: value.to("cpu") for name, value in outputs.items()}


def _mean(values: Tensor, empty: float = 0.0) -> float:
    return values.float().mean().item() if len(values) else empty


def _mean_and_spread(scores: Scores) -> tuple[float, float]:
    good = scores.values[scores.valid]
    return _mean(good, empty=math.nan), good.std().item() if len(good) > 1 else 0.0
