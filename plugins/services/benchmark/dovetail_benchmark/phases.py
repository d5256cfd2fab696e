"""The floor of each phase of a step: which passes its plan makes, at a measured rate."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch

from dovetail import Rollouts
from dovetail_benchmark.floor import Shape, Work, forward_flops

PASSES = ("logprobs", "entropy", "values")


def phase_flops(compiled: Any, rollouts: Rollouts) -> dict[str, float]:
    """Floating-point operations that ``generate``, ``forward`` and ``learn`` cannot do without.

    Args:
        compiled: A :class:`~dovetail.compiler.compile.Compiled`.
        rollouts: Of the step, with their rewards.

    Returns:
        By phase, without those that do not occur; empty if the shape of an agent is not known.
    """
    plan = compiled.plan
    agents = plan.context.agents
    everything, learnt = Work.of(rollouts), Work.of(rollouts.select(_learnt(plan, rollouts)))
    found = {"generate": 0.0, "forward": 0.0, "learn": 0.0}
    for node in plan.collect:
        if node.op.name == "generate":
            shape = Shape.of(agents[node.inputs["policy"].node].model)
            if shape is None:
                return {}
            found["generate"] += forward_flops(shape, everything)
    for phase, nodes, work in (("forward", plan.collect, everything), ("learn", plan.learn, learnt)):
        for name, wanted in _passes(nodes):
            shape = Shape.of(agents[name].model)
            if shape is None:
                return {}
            products = _products(agents[name]) * compiled.graph.epochs if phase == "learn" else 1
            found[phase] += products * forward_flops(shape, work, head=wanted != {"values"})
    return {phase: flops for phase, flops in found.items() if flops}


def _passes(nodes: Iterable[Any]) -> list[tuple[str, set[str]]]:
    """The agent of each model pass, and what is wanted of it; one pass serves all that read the same rollouts."""
    found: dict[Any, set[str]] = {}
    for node in nodes:
        if node.op.name in PASSES:
            found.setdefault((node.inputs["agent"], node.inputs["completions"]), set()).add(node.op.name)
    return [(agent.node, wanted) for (agent, _), wanted in found.items()]


def _products(agent: Any) -> int:
    """Products for each weight: forward, and backward to the inputs and, if it learns, to the weight."""
    if not agent.trainable:
        return 1
    return 3 if agent.lora is None else 2


def _learnt(plan: Any, rollouts: Rollouts) -> torch.Tensor:
    """``[B]`` bool, the rows that enter the loss."""
    rows = torch.ones(len(rollouts), dtype=torch.bool)
    for scores in rollouts.rewards.values():
        rows &= scores.valid
    return rows & ~rollouts.truncated if plan.context.settings.mask_truncated else rows
