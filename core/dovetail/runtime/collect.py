"""The collect half of a plan: once a step, without gradients."""

from __future__ import annotations

import operator
from collections import Counter, defaultdict
from collections.abc import Collection, Mapping
from concurrent.futures import wait
from typing import Any

import attrs
import torch
from torch import Tensor

from dovetail.compiler.plan import Plan
from dovetail.errors import TooManyInvalid
from dovetail.graph.node import Node
from dovetail.messages import Task
from dovetail.parts import Part
from dovetail.rollouts import Rollouts, Scores, Tasks
from dovetail.runtime.evaluate import Outputs, broken, estimate, read_outputs, start_function, total
from dovetail.runtime.execute import Execution, Pending
from dovetail.runtime.forward import forward_all
from dovetail.runtime.observe import Watch
from dovetail.runtime.offload import Offloader
from dovetail.runtime.scoring import PendingScores


@attrs.define(eq=False)
class Collected:
    """What a step has gathered before it learns."""

    values: Mapping[str, Outputs]  # by node
    rollouts: Rollouts  # with the scores of every reward, without the recipe's weights
    valid: Tensor  # [B] bool, rows that may enter the loss
    metrics: dict[str, float]
    seconds: defaultdict[str, float]  # by phase
    seed: int


def collect(plan: Plan, data: Mapping[str, Any], seed: int, offloader: Offloader, watch: Watch | None) -> Collected:
    """Run the collect nodes once.

    Args:
        plan: Its first half runs.
        data: Value of each input that is no agent: tasks for prompts, rollouts for offline data.
        seed: Of everything drawn in this step.
        offloader: Runs rewards and async functions.
        watch: Is told of each node.

    Raises:
        TooManyInvalid: More rows than ``max_invalid`` have no valid reward.
    """
    step = _Collection(plan, watch, data, seed, offloader)
    step.run()
    values = {name: step.outputs(name) for name in step.values}
    rollouts, *_ = [step.read(ref) for ref in (plan.rollouts, *plan.carried)]
    rollouts = rollouts.with_rewards(
        **{n: scores for n, scores in step.rewards.items() if len(scores) == len(rollouts)}
    )
    valid = torch.ones(len(rollouts), dtype=torch.bool)
    for name in plan.graph.ancestors(loss.ref.node for loss in plan.graph.losses) & values.keys():
        scores = values[name].get("out")
        if isinstance(scores, Scores) and len(scores) == len(rollouts):
            valid &= scores.valid
    collected = Collected(values, rollouts, valid, _metrics(plan, values, rollouts, valid), step.seconds, seed)
    _refuse_too_many_invalid(collected, plan.context.settings.max_invalid)
    return collected


def _refuse_too_many_invalid(collected: Collected, allowed: float) -> None:
    if collected.metrics["invalid"] <= allowed:
        return
    rewards = collected.rollouts.rewards.items()
    reasons = Counter(f"{name}: {reason}" for name, scores in rewards for reason in scores.reasons.values())
    error = TooManyInvalid(
        f"{collected.metrics['invalid']:.0%} of the samples have no valid reward, and max_invalid allows {allowed:.0%}",
        where=[f"most often, {reason}" for reason, _ in reasons.most_common(1)],
        hint="mend the reward, or raise max_invalid",
    )
    error.collected = collected  # type: ignore[attr-defined]
    raise error


def _metrics(plan: Plan, values: Mapping[str, Outputs], rollouts: Rollouts, valid: Tensor) -> dict[str, float]:
    metrics: dict[str, float] = {}
    for label, scores in rollouts.rewards.items():
        metrics[f"reward/{label}"] = _mean(scores.values[scores.valid], empty=float("nan"))
        metrics[f"invalid/{label}"] = 1 - _mean(scores.valid, empty=1)
    for node in plan.collect:
        if node.op.name == "total":
            rewards: Scores = values[node.name]["out"]
            good = rewards.values[rewards.valid]
            metrics["reward"] = _mean(good, empty=float("nan"))
            metrics["reward_std"] = good.std().item() if len(good) > 1 else 0.0
        if node.op.part:
            told = values[node.name].get("metrics", {})
            metrics.update({f"{node.op.part.name}/{name}": float(number) for name, number in told.items()})
    return {
        **metrics,
        "invalid": 1 - _mean(valid, empty=1),
        "tokens": float(len(rollouts.sampled.values)),
        "completion_length": _mean(rollouts.sampled.lengths),
        "truncated": _mean(rollouts.truncated),
    }


def _mean(values: Tensor, empty: float = 0.0) -> float:
    return values.float().mean().item() if len(values) else empty


class _Collection(Execution):
    def __init__(
        self, plan: Plan, watch: Watch | None, data: Mapping[str, Any], seed: int, offloader: Offloader
    ) -> None:
        super().__init__(plan, plan.collect, watch, {name: {"out": value} for name, value in data.items()})
        self._seed, self._offloader = seed, offloader
        self.rewards: dict[str, Scores] = {}  # by label

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
        seeds = torch.randint(0, 2**62, (len(tasks) * samples,), generator=torch.Generator().manual_seed(self._seed))
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
            scores = self.rewards[part.label] = pending.result()
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
