"""The collect half of a plan: once a step, without gradients."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any

import attrs
import torch
from torch import Tensor

from dovetail.compiler.checks import sampling_of
from dovetail.compiler.plan import Context, Plan
from dovetail.errors import TooManyInvalid
from dovetail.graph.node import Node, Ref
from dovetail.messages import Task
from dovetail.ragged import Ragged
from dovetail.rollouts import Rollouts, Scores, Tasks
from dovetail.runtime import evaluate
from dovetail.runtime.forward import forward_all
from dovetail.runtime.offload import Offloader
from dovetail.runtime.scoring import PendingScores
from dovetail.settings import TrainSettings

Observer = Callable[[str, Node, Mapping[str, Any], Mapping[str, Any]], None]


@attrs.define(eq=False)
class Collected:
    """What a step has gathered before it learns.

    Args:
        values: Output port to value, by node.
        rollouts: With the rewards of every reward node.
        valid: ``[B]`` bool, rows that may enter the loss.
        metrics: So far.
        seconds: By phase.
    """

    values: dict[str, dict[str, Any]]
    rollouts: Rollouts
    valid: Tensor
    metrics: dict[str, float]
    seconds: dict[str, float]

    def __getitem__(self, ref: Ref) -> Any:
        return self.values[ref.node][ref.port]


class Collector:
    """Runs the collect nodes of a plan in their order."""

    def __init__(self, plan: Plan, context: Context, settings: TrainSettings, offloader: Offloader) -> None:
        self._plan = plan
        self._context = context
        self._settings = settings
        self._offloader = offloader
        self._losses = plan.graph.ancestors(loss.ref.node for loss in plan.graph.losses)

    def run(self, data: Mapping[str, Any], seed: int, *, share_passes: bool, observe: Observer | None) -> Collected:
        """Run once.

        Args:
            data: Value of each input that is no agent: tasks for prompts, rollouts for offline data.
            seed: Of everything drawn in this step.
            share_passes: One model pass for all nodes that read the same agent and rollouts.
            observe: Called before (phase ``enter``) and after (``leave``) each node.

        Raises:
            TooManyInvalid: More rows than ``max_invalid`` have no valid reward.
        """
        step = _Step(self, data, seed, share_passes)
        for node in self._plan.collect:
            step.run(node, observe)
        rollouts = step.read(self._plan.rollouts)
        labels = {label: scores for label, scores in step.scores().items() if len(scores) == len(rollouts)}
        valid = torch.ones(len(rollouts), dtype=torch.bool)
        for name, scores in step.all_scores().items():
            if name in self._losses and len(scores) == len(rollouts):
                valid &= scores.valid
        collected = Collected(step.values, rollouts.with_rewards(**labels), valid, {}, step.seconds)
        collected.metrics.update(_metrics(collected, step))
        self._refuse_too_many_invalid(collected)
        return collected

    def _refuse_too_many_invalid(self, collected: Collected) -> None:
        share = 1 - collected.valid.float().mean().item() if len(collected.valid) else 0.0
        if share <= self._settings.max_invalid:
            return
        reasons = [
            f"{name}: {reason}"
            for name, scores in collected.rollouts.rewards.items()
            for reason in scores.reasons.values()
        ]
        common = max(set(reasons), key=reasons.count) if reasons else "unknown"
        error = TooManyInvalid(
            f"{share:.0%} of the samples have no valid reward, and max_invalid allows {self._settings.max_invalid:.0%}",
            where=[f"most often, {common}"],
            hint="mend the reward, or raise max_invalid",
        )
        error.collected = collected  # type: ignore[attr-defined]
        raise error


class _Step:
    def __init__(self, collector: Collector, data: Mapping[str, Any], seed: int, share_passes: bool) -> None:
        self._plan = collector._plan
        self._context = collector._context
        self._settings = collector._settings
        self._offloader = collector._offloader
        self._share_passes = share_passes
        self._seed = seed
        self.values: dict[str, dict[str, Any]] = {name: {"out": value} for name, value in data.items()}
        self.seconds: dict[str, float] = {}

    def run(self, node: Node, observe: Observer | None) -> None:
        if node.name in self.values:
            return
        if observe:
            observe("enter", node, {port: self.read(ref) for port, ref in self._data_inputs(node).items()}, {})
        started = time.perf_counter()
        self.values[node.name] = self._evaluate(node)
        phase = {"logprobs": "forward", "values": "forward", "entropy": "forward", "total": "rewards"}
        phase["op"] = node.op.label
        name = phase.get(node.op.name, node.op.name)
        self.seconds[name] = self.seconds.get(name, 0.0) + time.perf_counter() - started
        if observe:
            observe("leave", node, {}, {port: self.read(Ref(node.name, port)) for port in self.values[node.name]})

    def _data_inputs(self, node: Node) -> dict[str, Ref]:
        return {port: ref for port, ref in node.inputs.items() if ref.node in self.values}

    def read(self, ref: Ref) -> Any:
        """A value; one that is still being computed beside is awaited."""
        value = self.values[ref.node].get(ref.port)
        if isinstance(value, PendingScores | _Pending):
            value = self.values[ref.node][ref.port] = value.result()
        if value is None:
            node = self._plan.graph[ref.node]
            raise (node.op.part.error if node.op.part else TooManyInvalid)(f"{node} gave no {ref.port!r}")
        return value

    def _evaluate(self, node: Node) -> dict[str, Any]:
        name = node.op.name
        if name == "generate":
            return {"out": self._generate(node)}
        if name in ("logprobs", "entropy", "values"):
            return self._model_pass(node)
        if name == "reward":
            return {"out": self._start_reward(node)}
        inputs = {port: self.read(ref) for port, ref in node.inputs.items()}
        if name == "total":
            return evaluate.total(node, list(inputs.values()))
        if name == "advantages":
            rollouts = inputs.pop("rollouts")
            return evaluate.estimate(node, inputs, rollouts)
        if name == "frozen":
            return {"out": inputs["live"]}
        if evaluate.is_arithmetic(node):
            return {"out": evaluate.arithmetic(node, inputs["left"], inputs.get("right", node.options.get("number")))}
        return self._call_function(node, inputs)

    def _call_function(self, node: Node, inputs: dict[str, Any]) -> dict[str, Any]:
        if not node.op.offload:
            with torch.no_grad():
                return evaluate.call_function(node, inputs)
        future = self._offloader.submit_async(evaluate.start_function(node, inputs))
        pending = _PendingOutputs(future, node, inputs, self._settings.reward_timeout)
        return {port: _Pending(pending, port) for port in node.op.outputs}

    def _start_reward(self, node: Node) -> Any:
        assert node.op.part is not None
        rollouts = self.read(node.inputs["rollouts"])
        pending = PendingScores(node.op.part, rollouts, self._offloader, self._settings.reward_timeout)
        weight = node.options.get("weight", 1.0)
        return pending if weight == 1.0 else _Weighted(pending, weight)

    def _generate(self, node: Node) -> Rollouts:
        agent = self._context.agents[node.inputs["policy"].node]
        tasks = [Task.of(prompt, id=str(row)) for row, prompt in enumerate(self.read(node.inputs["prompts"]))]
        sampling, samples = sampling_of(node, self._context.sampling), node.options["samples"]
        prompts = agent.encode(tasks)
        seeds = torch.randint(0, 2**62, (len(tasks) * samples,), generator=torch.Generator().manual_seed(self._seed))
        generated = agent.generate(prompts, samples, sampling, seeds)
        return Rollouts.single_turn(
            prompts,
            generated,
            Tasks(tasks),
            samples=samples,
            sampling=sampling,
            policy_version=agent.version,
            decode=agent.decode,
        )

    def _model_pass(self, node: Node) -> dict[str, Any]:
        agent = self._context.agents[node.inputs["agent"].node]
        twins = [node]
        if self._share_passes:
            same = (node.inputs["agent"], node.inputs["completions"])
            twins = [n for n in self._plan.collect if (n.inputs.get("agent"), n.inputs.get("completions")) == same]
        rollouts = self.read(node.inputs["completions"])
        wanted = {twin.op.name for twin in twins}
        outputs = {
            name: value.to("cpu")
            for name, value in forward_all(agent, rollouts, wanted, self._settings.micro_batch_tokens).items()
        }
        for twin in twins:
            self.values[twin.name] = named_outputs(twin, outputs)
        return self.values[node.name]

    def all_scores(self) -> dict[str, Scores]:
        """Every per-sequence score by node."""
        found = {
            name: self.read(Ref(name, "out")) for name, ports in self.values.items() if ports.get("out") is not None
        }
        return {name: value for name, value in found.items() if isinstance(value, Scores)}

    def scores(self) -> dict[str, Scores]:
        """Scores of reward parts by label, without the recipe's weights."""
        nodes = [node for node in self._plan.collect if node.op.name == "reward"]
        return {n.op.part.label: self.read(Ref(n.name, "out")) for n in nodes if n.op.part}


def named_outputs(node: Node, outputs: Mapping[str, Any]) -> dict[str, Any]:
    """The ports of a model-pass node out of what the pass gave."""
    if node.op.name == "values":
        return {"out": outputs["values"], "final": outputs["final"]}
    return {"out": outputs[node.op.name]}


class _Weighted(PendingScores):
    """A pending reward with the weight that the recipe gave it."""

    def __init__(self, pending: PendingScores, weight: float) -> None:
        self._pending = pending
        self._weight = weight

    def result(self) -> Scores:
        return self._pending.result().combine(self._weight, lambda score, weight: score * weight)


class _PendingOutputs:
    def __init__(self, future: Any, node: Node, inputs: Mapping[str, Any], timeout: float) -> None:
        self._future, self._node, self._inputs, self._timeout = future, node, inputs, timeout

    def result(self) -> dict[str, Any]:
        return evaluate.read_outputs(self._node, self._future.result(self._timeout), self._inputs)


@attrs.frozen(eq=False)
class _Pending:
    outputs: _PendingOutputs
    port: str

    def result(self) -> Any:
        return self.outputs.result()[self.port]


def _metrics(collected: Collected, step: _Step) -> dict[str, float]:
    rollouts = collected.rollouts
    metrics: dict[str, float] = {}
    for label, scores in rollouts.rewards.items():
        valid = scores.values[scores.valid]
        metrics[f"reward/{label}"] = valid.mean().item() if len(valid) else float("nan")
        metrics[f"invalid/{label}"] = 1 - scores.valid.float().mean().item()
    for node in step._plan.collect:
        value = step.values[node.name].get("out")
        if node.op.name == "total" and isinstance(value, Scores):
            good = value.values[value.valid]
            metrics["reward"] = good.mean().item() if len(good) else float("nan")
            metrics["reward_std"] = good.std().item() if len(good) > 1 else 0.0
        for name, number in step.values[node.name].get("metrics", {}).items():
            metrics[f"{node.op.part.name if node.op.part else node.name}/{name}"] = float(number)
    metrics["invalid"] = 1 - collected.valid.float().mean().item() if len(collected.valid) else 0.0
    lengths: Ragged = rollouts.sampled
    metrics["tokens"] = float(len(lengths.values))
    metrics["completion_length"] = lengths.lengths.float().mean().item() if len(lengths) else 0.0
    metrics["truncated"] = rollouts.truncated.float().mean().item() if len(rollouts) else 0.0
    return metrics
