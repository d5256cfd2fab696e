"""The pass that captures: what of a step is static is told, and on CUDA model passes with gradients are replayed."""

from __future__ import annotations

import functools
from typing import Any

import torch
from torch import Tensor

from dovetail.compiler.plan import Context
from dovetail.graph.graph import Graph
from dovetail.graph.node import Node
from dovetail.graph.ops import SAMPLERS
from dovetail.parts import HOOKS_BY_KIND, Part
from dovetail.ragged import Ragged
from dovetail.rollouts import LossTerms
from dovetail_kernels.replay import ReplayedAgent
from dovetail_kernels.static import obstacle


def capture(graph: Graph, context: Context) -> Graph:
    """Note which segments of a step are static; let agents that learn on CUDA replay their passes by bucket.

    Checked on fake tensors, so that the notes are the same on a machine without a GPU. Nothing else changes: numbers
    are those of a run without this pass.
    """
    told = [line for node in graph.ordered() if (line := _of_node(node))]
    replayed: dict[int, Any] = {}
    for name, agent in context.agents.items():
        if getattr(agent, "trainable", False) and id(agent) not in replayed:
            why = _of_agent(agent)
            on_cuda = agent.device.type == "cuda"
            replayed[id(agent)] = ReplayedAgent(agent) if why is None and on_cuda else agent
            place = "replayed by bucket of lines and width" if on_cuda else f"run as usual, on {agent.device.type}"
            told.append(f"{name}: forward and backward {f'are static, and {place}' if why is None else why}")
    context.agents = {name: replayed.get(id(agent), agent) for name, agent in context.agents.items()}
    context.notes += [f"capture: {line}" for line in told]
    return graph


def _of_node(node: Node) -> str | None:
    part = node.op.part
    if node.op.name in SAMPLERS:
        return f"{node.name} is left to its generator, whose rows end when they will"
    if part is None:
        return None
    if part.kind == "rewards":
        return f"{node.name} runs on the host, where rollouts live"
    hook = HOOKS_BY_KIND[part.kind][0]
    if "tasks" in part.needs(hook):
        return f"{node.name} is not static: it reads tasks, which are no tensors"
    why = obstacle(functools.partial(_tried, part, hook, _rows()))
    return f"{node.name} is static" if why is None else f"{node.name} is not static: {why}"


_LIVE = ("logprobs", "values", "entropy", "final_values")  # of a loss: what carries gradients


def _tried(part: Part, hook: str, real: Ragged) -> None:
    """Call an estimator, or a loss and its backward, on fakes of real rows."""
    rows = Ragged.cat([real])
    per_row = torch.empty_like(rows.lengths, dtype=torch.float32)
    of_sequences: dict[str, Tensor | Ragged] = {
        "groups": rows.lengths,
        "truncated": rows.lengths > 1,
        "final_values": per_row,
        "baselines": per_row,
    }
    of_sequences["rewards"] = per_row if part.kind == "advantages" else rows
    given: dict[str, Any] = {"reward_parts": {"reward": per_row}, "reward_weights": {"reward": 1.0}}
    given |= {"sampled": rows.map(Tensor.long), "steps": None, "step_rewards": None}
    for name in part.needs(hook):
        given.setdefault(name, of_sequences.get(name, rows))
    live = [_live(given, name) for name in _LIVE if part.kind == "losses" and name in given]
    unneeded = dict.fromkeys(name for name in part.asks_for(hook) if name not in part.needs(hook))
    result = getattr(part.instance, hook)(**{name: given[name] for name in part.needs(hook)}, **unneeded)
    if isinstance(result, LossTerms):
        terms = result.terms.values if isinstance(result.terms, Ragged) else result.terms
        torch.autograd.grad(terms.sum(), live, allow_unused=True)


def _rows() -> Ragged:
    return Ragged.from_rows([[0.5] * length for length in (2, 1, 3, 2)])


def _live(given: dict[str, Any], name: str) -> Tensor:
    """Put a copy that wants a gradient in the place of a value."""
    value = given[name]
    leaf: Tensor = (value.values if isinstance(value, Ragged) else value).clone().requires_grad_()
    given[name] = value.with_values(leaf) if isinstance(value, Ragged) else leaf
    return leaf


def _of_agent(agent: Any) -> str | None:
    """What keeps the passes of an agent with gradients from being replayed."""
    if agent.gradient_checkpointing:
        return "are not static: activations are computed again in backward"
    tokens, shared = torch.zeros((2, 4), dtype=torch.int64, device=agent.device), agent.packing_width is not None
    mask = torch.ones((2, 1, 4, 4), dtype=torch.bool, device=agent.device).tril()
    for given in [(tokens,), *([(tokens, mask, tokens)] if shared else [])]:
        why = obstacle(functools.partial(_passed, agent), *given)
        if why is not None:
            return f"are not static: {why}"
    return None


def _passed(agent: Any, *given: Tensor) -> None:
    with torch.enable_grad():
        hidden = agent.hidden(*given)
        learnt = [parameter for parameter in agent.model.parameters() if parameter.requires_grad]
        torch.autograd.grad(hidden.sum(), learnt, allow_unused=True)
