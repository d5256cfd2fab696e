"""The learn half of a plan: minibatches, micro-batches, gradients, optimizer steps."""

from __future__ import annotations

import sys
from collections import Counter, defaultdict
from collections.abc import Collection, Iterator
from functools import partial
from typing import Any

import torch
from torch import Tensor

from dovetail.compiler.plan import Plan
from dovetail.errors import DovetailError
from dovetail.graph.node import Node
from dovetail.graph.ops import LOGPROBS
from dovetail.ragged import Ragged
from dovetail.rollouts import LossTerms, Rollouts
from dovetail.runtime.collect import Collected
from dovetail.runtime.evaluate import Outputs, check_terms, loss_terms, take
from dovetail.runtime.execute import Execution, timed
from dovetail.runtime.forward import forward
from dovetail.runtime.packing import MicroBatch, bundles
from dovetail.runtime.reduce import StepCounts, known_values, reduce_terms

_COUNT = "count of "  # before the name of a metric that is a mean: of how many values


class Learning:
    """Learns from a batch. Shares of a metric add up within an optimizer step, and steps are averaged."""

    def __init__(self, plan: Plan, collected: Collected, watch: Any) -> None:
        self.plan, self.collected, self.watch = plan, collected, watch
        self._by_group = any("groups" in node.op.part.needs("loss_terms") for node in plan.learn if node.op.part)
        self.losses = [loss for loss in plan.graph.losses if loss.after <= plan.context.step]
        names = sorted({ref.node for node in plan.learn for ref in node.inputs.values()} & plan.context.agents.keys())
        learners = {id(agent): name for name in names if (agent := plan.context.agents[name]).trainable}
        self.agents = {name: plan.context.agents[name] for name in learners.values()}
        self.device = next((agent.device for agent in self.agents.values()), torch.device("cpu"))
        self._steps: list[Counter[str]] = []
        self._weights = torch.zeros(3, dtype=torch.float64)  # importance weights: sum, sum of squares, number

    def run(self, *, update: bool) -> dict[str, float]:
        """Learn, and give the metrics; errors and ``update`` as for ``Compiled.learn``."""
        optimizers: dict[str, float] = {}
        for rows in self._minibatches():
            with timed(self.collected.seconds, "learn"):
                self._accumulate(rows)
            if update:
                with timed(self.collected.seconds, "optimizer"):
                    for name, agent in self.agents.items():
                        prefix = "" if len(self.agents) == 1 else f"{name}/"
                        optimizers.update({f"{prefix}{key}": value for key, value in agent.update().items()})
        return {**self._metrics(), **optimizers}

    def _minibatches(self) -> Iterator[Tensor]:
        graph, rollouts = self.plan.graph, self.collected.rollouts
        counted = self.collected.valid & (rollouts.sampled.lengths > 0)
        if self.plan.context.settings.mask_truncated:
            counted &= ~rollouts.truncated
        rows = counted.nonzero().squeeze(1)
        units = torch.unique(rollouts.groups[rows] if self._by_group else rows, return_inverse=True)[1]
        generator = torch.Generator().manual_seed(self.collected.seed)
        for _ in range(graph.epochs):
            shuffled = torch.randperm(int(units.max()) + 1 if len(rows) else 0, generator=generator)
            pieces = (rows[torch.isin(units, piece)] for piece in torch.tensor_split(shuffled, graph.minibatches))
            yield from (piece for piece in pieces if len(piece))

    def _accumulate(self, rows: Tensor) -> None:
        """Leave the gradients of an optimizer step on these rows on the parameters."""
        rollouts, context = self.collected.rollouts, self.plan.context
        counts = StepCounts(rollouts.sampled.lengths[rows], rollouts.groups[rows])
        budget = sys.maxsize if context.eager else context.micro_batch_tokens
        for agent in self.agents.values():
            agent.zero_grad()
        work, chosen = partial(self._micro_batch, rows, counts), rollouts.select(rows)
        done = context.ranks.each(work, chosen, budget, self._packing_width(), by_group=self._by_group)
        context.ranks.add(p for agent in self.agents.values() for p in agent.named_parameters().values())
        self._steps.append(Counter())
        for _, (shares, weights) in done:
            self._steps[-1].update(shares)
            self._weights += weights

    def _micro_batch(self, rows: Tensor, counts: StepCounts, given: MicroBatch) -> tuple[dict[str, float], Tensor]:
        """Add the gradients of a micro-batch; its shares of the metrics, and what it knows of importance weights."""
        batch = _MicroBatch(self, rows[given.rows], counts, given)
        loss = batch.loss()
        if not bool(torch.isfinite(loss)):
            problem = f"the loss is {loss.item()} in a micro-batch of {len(given.rows)} sequences"
            hint = "lower the learning rate, or look at the rollouts of this step with `dovetail rollouts`"
            raise DovetailError(problem, hint=hint)
        if loss.requires_grad:
            loss.backward()  # type: ignore[no-untyped-call]
        return batch.shares, batch.weights

    def _packing_width(self) -> int | None:
        """Rows are bundled if every agent can read them so, and not in eager mode, which shows the plain way."""
        widths = [agent.packing_width for agent in self.agents.values()]
        return None if self.plan.context.eager or None in widths else min(widths, default=None)

    def _metrics(self) -> dict[str, float]:
        metrics = {} if self._steps else {"loss": 0.0}
        for name in sorted({name for step in self._steps for name in step if not name.startswith(_COUNT)}):
            shares = [step[name] / (step[_COUNT + name] or 1) for step in self._steps if name in step]
            metrics[name] = torch.tensor(shares, dtype=torch.float64).mean().item()
        total, squares, count = self._weights.tolist()
        if count:
            metrics["effective_sample_size"] = total * total / (count * squares)
        return metrics


class _MicroBatch(Execution):
    """Rows of an optimizer step, run with gradients; those of ``given`` are their places in it."""

    def __init__(self, learning: Learning, rows: Tensor, counts: StepCounts, given: MicroBatch) -> None:
        values: dict[str, Outputs] = defaultdict(dict)
        for ref in learning.plan.carried:
            values[ref.node][ref.port] = take(learning.collected.values[ref.node][ref.port], rows, learning.device)
        super().__init__(learning.plan, learning.plan.learn, values, self._pass, learning.watch)
        self._learning, self._counts, self._given, self._places = learning, counts, given, given.rows
        self.shares = defaultdict[str, float](float)  # of metrics: those of all micro-batches add up
        self.weights = torch.zeros(3, dtype=torch.float64)
        self._rollouts: Rollouts = self.read(learning.plan.rollouts)

    def loss(self) -> Tensor:
        """The share of these rows in the loss of their step."""
        self.run()
        self._sampler_statistics()
        shares = [self.read(loss.ref) * loss.weight for loss in self._learning.losses]
        if not all(isinstance(share, Tensor) and share.ndim == 0 for share in shares):
            raise DovetailError("a loss must be a loss part, or an @dt.op that returns dt.LossTerms")
        loss = sum(shares, start=torch.zeros((), device=self._learning.device))
        self.shares["loss"] = loss.item()
        return loss

    def _pass(self, agent: Any, rollouts: Rollouts, wanted: Collection[str]) -> Outputs:
        alone = bundles(rollouts, None) if self.plan.context.eager else None
        return forward(agent, rollouts, wanted, self._given.together if rollouts is self._rollouts else alone)

    def operate(self, node: Node, inputs: dict[str, Any]) -> Outputs:
        part = node.op.part
        outputs = {"out": loss_terms(node, inputs, self._rollouts)} if part else super().operate(node, inputs)
        return {port: self._share(node, v) if isinstance(v, LossTerms) else v for port, v in outputs.items()}

    def _share(self, node: Node, terms: LossTerms) -> Tensor:
        """The share of a loss, and of its metrics."""
        if node.op.function:
            check_terms(node, terms, self._rollouts.sampled)
        share = reduce_terms(terms, self._counts, self._places)
        self.shares[f"loss/{node.name}"] = share.item()
        for name, metric in terms.metrics.items():
            self._add_mean(f"{node.op.part.name if node.op.part else node.name}/{name}", metric)
        return share

    def _add_mean(self, name: str, metric: Ragged | Tensor) -> None:
        if len(known := known_values(metric, self._counts, self._places)):  # what no row has is left out
            self.shares[name] += known.sum().item()
            self.shares[_COUNT + name] += len(known)

    def _sampler_statistics(self) -> None:
        """How far the policy is from the one that sampled: KL by the k3 estimator, effective sample size, entropy."""
        live = next((node for node in self.nodes if node.op is LOGPROBS), None)
        if live is None:
            return
        logprobs: Ragged = self.outputs(live.name)["out"].detach()
        self._add_mean("entropy", -logprobs)
        if self._rollouts.sampled_logprobs is not None:
            gap = logprobs - self._rollouts.sampled_logprobs
            self._add_mean("kl_to_sampler", gap.exp() - 1 - gap)
            ratios = gap.values.clamp(-20, 20).exp().double().cpu()
            self.weights = torch.stack([ratios.sum(), ratios.square().sum(), torch.tensor(float(len(ratios)))])
