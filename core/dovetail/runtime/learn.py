"""The learn half of a plan: minibatches, micro-batches, gradients, optimizer steps."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

from dovetail.compiler.plan import Context, Plan
from dovetail.errors import DovetailError
from dovetail.graph.node import Node, Ref
from dovetail.ragged import Ragged
from dovetail.rollouts import LossTerms, Rollouts, Scores
from dovetail.runtime import evaluate
from dovetail.runtime.collect import Collected, Observer, named_outputs
from dovetail.runtime.forward import forward
from dovetail.runtime.packing import micro_batches
from dovetail.runtime.reduce import StepCounts, mean_share, reduce_terms
from dovetail.settings import TrainSettings

NO_BUDGET = 1 << 62


class Learner:
    """Runs the learn nodes of a plan and steps the optimizers."""

    def __init__(self, plan: Plan, context: Context, settings: TrainSettings) -> None:
        self._plan = plan
        self._context = context
        self._settings = settings
        names = {node.inputs["agent"].node for node in plan.learn if "agent" in node.inputs}
        self._agents = {name: context.agents[name] for name in sorted(names) if context.agents[name].trainable}

    def run(
        self, collected: Collected, seed: int, *, share_passes: bool, update: bool, observe: Observer | None
    ) -> dict[str, float]:
        """Learn from a batch.

        Args:
            collected: What the step gathered.
            seed: Of the order of the minibatches.
            share_passes: False runs each node by itself on a whole minibatch.
            update: False leaves the gradients and steps nothing.
            observe: See :meth:`Collector.run`.

        Raises:
            DovetailError: A loss or a gradient is not finite; the weights are as before the optimizer step.
        """
        totals = _Totals()
        for rows in self._minibatches(collected, seed):
            started = time.perf_counter()
            self._accumulate(collected, rows, totals, share_passes, observe)
            totals.seconds["learn"] = totals.seconds.get("learn", 0.0) + time.perf_counter() - started
            if update:
                started = time.perf_counter()
                self._update(totals)
                totals.seconds["optimizer"] = totals.seconds.get("optimizer", 0.0) + time.perf_counter() - started
        collected.seconds.update(totals.seconds)
        return totals.metrics()

    def _minibatches(self, collected: Collected, seed: int) -> Iterator[Tensor]:
        graph, rollouts = self._plan.graph, collected.rollouts
        counted = collected.valid & (rollouts.sampled.lengths > 0)
        if self._settings.mask_truncated:
            counted &= ~rollouts.truncated
        rows = counted.nonzero().squeeze(1)
        generator = torch.Generator().manual_seed(seed)
        for _ in range(graph.epochs):
            shuffled = rows[torch.randperm(len(rows), generator=generator)] if graph.minibatches > 1 else rows
            yield from (piece for piece in torch.tensor_split(shuffled, graph.minibatches) if len(piece))

    def _accumulate(
        self, collected: Collected, rows: Tensor, totals: _Totals, share_passes: bool, observe: Observer | None
    ) -> None:
        rollouts = collected.rollouts
        counts = StepCounts(rollouts.sampled.lengths[rows], rollouts.groups[rows])
        budget = self._settings.micro_batch_tokens if share_passes else NO_BUDGET
        for agent in self._agents.values():
            agent.zero_grad()
        totals.begin(counts)
        width = min((agent.packing_width or 0 for agent in self._agents.values()), default=0) if share_passes else 0
        for places in micro_batches(rollouts.select(rows), budget, width or None):
            micro = _MicroBatch(self, collected, rows[places], places, counts, share_passes)
            loss = micro.run(totals, observe)
            if not bool(torch.isfinite(loss)):
                raise DovetailError(
                    f"the loss is {loss.item()} in a micro-batch of {len(places)} sequences",
                    hint="lower the learning rate, or look at the rollouts of this step with `dovetail rollouts`",
                )
            if loss.requires_grad:
                loss.backward()  # type: ignore[no-untyped-call]

    def _update(self, totals: _Totals) -> None:
        for name, agent in self._agents.items():
            prefix = "" if len(self._agents) == 1 else f"{name}/"
            for key, value in agent.update().items():
                totals.last[f"{prefix}{key}"] = value


class _MicroBatch:
    def __init__(
        self, learner: Learner, collected: Collected, rows: Tensor, places: Tensor, counts: StepCounts, share: bool
    ) -> None:
        self._plan = learner._plan
        self._agents = learner._context.agents
        self._places = places
        self._counts = counts
        self._share = share
        device = next(iter(learner._agents.values())).device if learner._agents else torch.device("cpu")
        self._rollouts = _slice(collected.rollouts, rows, device)
        self._values: dict[str, dict[str, Any]] = {}
        for ref in self._plan.carried:
            value = self._rollouts if ref == self._plan.rollouts else _slice(collected[ref], rows, device)
            self._values.setdefault(ref.node, {})[ref.port] = value
        self._values.setdefault(self._plan.rollouts.node, {})[self._plan.rollouts.port] = self._rollouts

    def run(self, totals: _Totals, observe: Observer | None) -> Tensor:
        for node in self._plan.learn:
            if node.name in self._values:
                continue
            if observe:
                observe("enter", node, {port: self._read(ref) for port, ref in self._inputs(node).items()}, {})
            self._values[node.name] = self._evaluate(node, totals)
            if observe:
                observe("leave", node, {}, self._values[node.name])
        self._sampler_statistics(totals)
        shares = [self._read(loss.ref) * loss.weight for loss in self._plan.graph.losses]
        loss: Tensor = torch.stack([self._reduced(share) for share in shares]).sum()
        totals.add("loss", loss)
        return loss

    def _inputs(self, node: Node) -> dict[str, Ref]:
        return {port: ref for port, ref in node.inputs.items() if ref.node in self._values}

    def _read(self, ref: Ref) -> Any:
        return self._values[ref.node][ref.port]

    def _evaluate(self, node: Node, totals: _Totals) -> dict[str, Any]:
        if node.op.name in ("logprobs", "entropy", "values"):
            return self._model_pass(node)
        inputs = {port: self._read(ref) for port, ref in self._inputs(node).items()}
        if node.op.name == "loss":
            inputs.pop("rollouts", None)
            terms = evaluate.loss_terms(node, inputs, self._rollouts)
            return {"out": self._loss_share(node, terms, totals)}
        if node.op.name == "frozen":
            return {"out": inputs["live"].detach()}
        if evaluate.is_arithmetic(node):
            return {"out": evaluate.arithmetic(node, inputs["left"], inputs.get("right", node.options.get("number")))}
        outputs = evaluate.call_function(node, inputs)
        for port, value in outputs.items():
            if isinstance(value, LossTerms):
                evaluate.check_terms(None, value, self._rollouts.sampled)
                outputs[port] = self._loss_share(node, value, totals)
        return outputs

    def _loss_share(self, node: Node, terms: LossTerms, totals: _Totals) -> Tensor:
        share = reduce_terms(terms, self._counts, self._places)
        totals.add(f"loss/{node.name}", share)
        for name, metric in terms.metrics.items():
            label = node.op.part.name if node.op.part else node.name
            totals.add(f"{label}/{name}", mean_share(metric, self._counts, self._places))
        return share

    def _reduced(self, share: Any) -> Tensor:
        if not isinstance(share, Tensor) or share.ndim:
            raise DovetailError("a loss must be a loss part, or an @dt.op that returns dt.LossTerms")
        return share

    def _model_pass(self, node: Node) -> dict[str, Any]:
        same = (node.inputs["agent"], node.inputs["completions"])
        twins = [node]
        if self._share:
            twins = [n for n in self._plan.learn if (n.inputs.get("agent"), n.inputs.get("completions")) == same]
        wanted = {twin.op.name for twin in twins}
        outputs = forward(self._agents[same[0].node], self._rollouts, wanted, share=self._share)
        for twin in twins:
            self._values[twin.name] = named_outputs(twin, outputs)
        return self._values[node.name]

    def _sampler_statistics(self, totals: _Totals) -> None:
        """How far the policy is from the one that sampled: KL by the k3 estimator, effective sample size, entropy."""
        live = next((n for n in self._plan.learn if n.op.name == "logprobs"), None)
        if live is None:
            return
        logprobs: Ragged = self._values[live.name]["out"].detach()
        totals.add("entropy", mean_share(-logprobs, self._counts, self._places))
        sampled = self._rollouts.sampled_logprobs
        if sampled is None:
            return
        gap = logprobs - sampled
        totals.add("kl_to_sampler", mean_share(gap.exp() - 1 - gap, self._counts, self._places))
        totals.add_weights(gap.values.clamp(-20, 20).exp())


def _slice(value: Any, rows: Tensor, device: torch.device) -> Any:
    if isinstance(value, Rollouts):
        return value.select(rows).to(device)
    if isinstance(value, Scores):
        return value.values[rows].to(device)
    if isinstance(value, Ragged):
        return value.select(rows).to(device)
    if isinstance(value, Tensor) and value.ndim:
        return value[rows].to(device)
    if isinstance(value, Mapping):
        return {name: _slice(inner, rows, device) for name, inner in value.items()}
    return value


class _Totals:
    """Metrics of the optimizer steps of one batch: shares add up within a step, steps are averaged."""

    def __init__(self) -> None:
        self.steps: list[dict[str, Tensor]] = []
        self.last: dict[str, float] = {}
        self.seconds: dict[str, float] = {}
        self._weights = torch.zeros(3, dtype=torch.float64)

    def begin(self, counts: StepCounts) -> None:
        self.steps.append({})

    def add(self, name: str, share: Tensor) -> None:
        step = self.steps[-1]
        share = share.detach().double().cpu()
        step[name] = step[name] + share if name in step else share

    def add_weights(self, weights: Tensor) -> None:
        weights = weights.double().cpu()
        self._weights += torch.stack([weights.sum(), (weights * weights).sum(), torch.tensor(float(len(weights)))])

    def metrics(self) -> dict[str, float]:
        if not self.steps:
            return {"loss": 0.0}
        names = {name for step in self.steps for name in step}
        result = {n: float(torch.stack([s[n] for s in self.steps if n in s]).mean()) for n in sorted(names)}
        total, squares, count = self._weights.tolist()
        if count:
            result["effective_sample_size"] = total * total / (count * squares)
        return {**result, **self.last}
