"""The collect half of a plan: once a step, without gradients."""

from __future__ import annotations

import operator
from collections import Counter
from collections.abc import Collection, Mapping
from concurrent.futures import wait
from typing import Any

import torch
from torch import Tensor

from dovetail.compiler.plan import Plan
from dovetail.errors import TooManyInvalid
from dovetail.graph.node import Node
from dovetail.messages import Task
from dovetail.parts import Part
from dovetail.rollouts import Rollouts, Scores, Tasks
from dovetail.runtime.evaluate import Outputs, broken, estimate, read_outputs, start_function, total
from dovetail.runtime.execute import Execution, Pending, Watch
from dovetail.runtime.forward import forward_all
from dovetail.runtime.scoring import Offloader, PendingScores


class Collected(Execution):
    """The collect nodes of a plan, and what they gathered before the step learns.

    Args:
        plan: Its first half runs.
        data: Value of each input that is no agent: tasks for prompts, rollouts for offline data.
        seed: Of everything drawn in this step.
        offloader: Runs rewards and async functions.
        watch: Is told of each node.
    """

    rollouts: Rollouts  # with the scores of every reward, without the recipe's weights
    valid: Tensor  # [B] bool, rows that may enter the loss
    metrics: dict[str, float]

    def __init__(
        self, plan: Plan, data: Mapping[str, Any], seed: int, offloader: Offloader, watch: Watch | None
    ) -> None:
        super().__init__(plan, plan.collect, watch, {name: {"out": value} for name, value in data.items()})
        self.seed, self._offloader = seed, offloader
        self._rewards: dict[str, Scores] = {}

    def run(self) -> None:
        """Run once.

        Raises:
            TooManyInvalid: More rows than ``max_invalid`` have no valid reward.
        """
        super().run()
        outputs = {name: self.outputs(name) for name in self.values}
        rollouts, *_ = [self.read(ref) for ref in (self.plan.rollouts, *self.plan.carried)]
        rewards = {label: scores for label, scores in self._rewards.items() if len(scores) == len(rollouts)}
        self.rollouts = rollouts.with_rewards(**rewards)
        self.valid = torch.ones(len(rollouts), dtype=torch.bool)
        for name in self.plan.graph.ancestors(loss.ref.node for loss in self.plan.graph.losses) & outputs.keys():
            scores = outputs[name].get("out")
            if isinstance(scores, Scores) and len(scores) == len(rollouts):
                self.valid &= scores.valid
        self.metrics = self._measure()
        self._refuse_too_many_invalid(self.plan.context.settings.max_invalid)

    def _measure(self) -> dict[str, float]:
        metrics: dict[str, float] = {}
        for label, scores in self.rollouts.rewards.items():
            metrics[f"reward/{label}"] = _mean(scores.values[scores.valid], empty=float("nan"))
            metrics[f"invalid/{label}"] = 1 - _mean(scores.valid, empty=1)
        for node in self.nodes:
            if node.op.name == "total":
                total: Scores = self.values[node.name]["out"]
                good = total.values[total.valid]
                metrics["reward"] = _mean(good, empty=float("nan"))
                metrics["reward_std"] = good.std().item() if len(good) > 1 else 0.0
            if node.op.part:
                told = self.values[node.name].get("metrics", {})
                metrics.update({f"{node.op.part.name}/{name}": float(number) for name, number in told.items()})
        return {
            **metrics,
            "invalid": 1 - _mean(self.valid, empty=1),
            "tokens": float(len(self.rollouts.sampled.values)),
            "completion_length": _mean(self.rollouts.sampled.lengths),
            "truncated": _mean(self.rollouts.truncated),
        }

    def _refuse_too_many_invalid(self, allowed: float) -> None:
        if self.metrics["invalid"] > allowed:
            rewards = self.rollouts.rewards.items()
            reasons = Counter(f"{name}: {reason}" for name, scores in rewards for reason in scores.reasons.values())
            error = TooManyInvalid(
                f"{self.metrics['invalid']:.0%} of the samples have no valid reward, "
                f"and max_invalid allows {allowed:.0%}",
                where=[f"most often, {reason}" for reason, _ in reasons.most_common(1)],
                hint="mend the reward, or raise max_invalid",
            )
            error.collected = self  # type: ignore[attr-defined]
            raise error

    def operate(self, node: Node, inputs: dict[str, Any]) -> Outputs | Pending:
        if node.op.offload:
            return self._score(node, node.op.part, inputs) if node.op.part else self._start(node, inputs)
        match node.op.name if node.op.function is None else "function":
            case "generate":
                return {"out": self._generate(node, inputs)}
            case "total":
                return total(node, inputs)
            case "advantages":
                return estimate(node, inputs, inputs["rollouts"])
            case "frozen":
                return {"out": inputs["live"]}
        with torch.no_grad():
            return self.operate_anywhere(node, inputs)

    def _generate(self, node: Node, inputs: dict[str, Any]) -> Rollouts:
        context, samples = self.plan.context, node.options["samples"]
        agent, sampling = context.agents[node.inputs["policy"].node], context.sampling_of(node)
        tasks = [Task.of(prompt, id=str(row)) for row, prompt in enumerate(inputs["prompts"])]
        prompts = agent.encode(tasks)
        seeds = torch.randint(0, 2**62, (len(tasks) * samples,), generator=torch.Generator().manual_seed(self.seed))
        return Rollouts.single_turn(
            prompts,
            agent.generate(prompts, samples, sampling, seeds),
            Tasks(tasks),
            samples=samples,
            sampling=sampling,
            policy_version=agent.version,
            decode=agent.decode,
        )

    def _score(self, node: Node, part: Part, inputs: dict[str, Any]) -> Pending:
        pending = PendingScores(part, inputs["rollouts"], self._offloader, self.plan.context.settings.reward_timeout)

        def scored() -> Outputs:
            scores = self._rewards[part.label] = pending.result()
            return {"out": scores.combine(node.options.get("weight", 1.0), operator.mul)}

        return scored

    def _start(self, node: Node, inputs: dict[str, Any]) -> Pending:
        """Start an async function."""
        future = self._offloader.submit(start_function(node, inputs))

        def finished() -> Outputs:
            if not wait([future], self.plan.context.settings.reward_timeout).done:
                future.cancel()
                raise broken(node, "gave no answer in time", "raise reward_timeout")
            return read_outputs(node, future.result(), inputs)

        return finished

    def forward(self, agent: Any, rollouts: Rollouts, wanted: Collection[str]) -> Outputs:
        outputs = forward_all(agent, rollouts, wanted, self.plan.context.settings.micro_batch_tokens)
        return {name: value.to("cpu") for name, value in outputs.items()}


def _mean(values: Tensor, empty: float = 0.0) -> float:
    return values.float().mean().item() if len(values) else empty
