"""Bind: inputs get their agents, the rewards slot its rewards, implicit ports their nodes."""

from __future__ import annotations

import attrs

from dovetail.compiler.plan import Context
from dovetail.errors import RecipeError, did_you_mean
from dovetail.graph.complete import complete
from dovetail.graph.graph import Graph
from dovetail.graph.node import Node, Ref
from dovetail.graph.ops import part_op, total_op
from dovetail.graph.types import AGENT
from dovetail.parts import Part


def bind(graph: Graph, context: Context) -> Graph:
    """Fill the slots.

    Raises:
        RecipeError: An agent is missing or unknown, or the slot stays empty.
    """
    _check_agents(graph, context)
    for node in [node for node in graph if node.op.name == "run_rewards"]:
        graph = _fill_slot(graph, node, context)
    return complete(graph)


def _check_agents(graph: Graph, context: Context) -> None:
    types = graph.input_types()
    names = [name for name, kind in types.items() if kind == AGENT]
    for name in context.agents:
        if name not in names:
            raise RecipeError(f"the recipe has no agent {name!r}", hint=did_you_mean(name, names))


def require_agents(graph: Graph, context: Context) -> Graph:
    """Every agent that is still read after folding must have been given.

    Raises:
        RecipeError: One was not.
    """
    for name, kind in graph.input_types().items():
        if kind == AGENT and name not in context.agents and graph.readers(name):
            reader = graph.readers(name)[0][0]
            raise RecipeError(
                f"the agent {name!r} is missing, and {reader} reads it",
                where=reader.where("read"),
                hint=f"pass {name}=dt.Agent(…), or for a reference {name}=policy.frozen()",
            )
    return graph


def _fill_slot(graph: Graph, slot: Node, context: Context) -> Graph:
    parts = [*([_environment_reward(context.environment)] if context.environment else []), *context.rewards]
    if not parts:
        raise RecipeError(
            f"{slot} has no reward to run", where=slot.where("made"), hint="pass rewards=[…] or environment=…"
        )
    _refuse_twins(parts)
    nodes = [
        Node(f"reward_{part.label}", part_op(part), {"rollouts": slot.inputs["completions"]}, source=slot.source)
        for part in parts
    ]
    total = Node(
        slot.name,
        total_op(len(parts)),
        {f"reward_{index}": Ref(node.name, "out") for index, node in enumerate(nodes)},
        {"weights": tuple(part.weight for part in parts), "labels": tuple(part.label for part in parts)},
        slot.source,
    )
    context.note(f"bind: {slot.name} = " + " + ".join(f"{part.weight:g} * {part.label}" for part in parts))
    before = [node for node in graph.nodes if node.name != slot.name]
    return graph.with_nodes([*before, *nodes, total])


def _refuse_twins(parts: list[Part]) -> None:
    labels = [part.label for part in parts]
    for label in labels:
        if labels.count(label) > 1:
            raise RecipeError(f"two rewards are called {label!r} in this run", hint="give one of them another name=")


def _environment_reward(environment: Part) -> Part:
    from dovetail.runtime.episodes import EpisodeReward

    return attrs.evolve(environment, kind="rewards", instance=EpisodeReward(environment))
