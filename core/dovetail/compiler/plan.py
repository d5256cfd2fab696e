"""The plan: what runs once a step without gradients, and what runs in every minibatch with them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import attrs

from dovetail.errors import RecipeError
from dovetail.graph.graph import Graph
from dovetail.graph.node import Node, Ref
from dovetail.graph.ops import FROZEN, GENERATE_COUNTS, SAMPLERS
from dovetail.graph.types import AGENT, LOSS, ROLLOUTS
from dovetail.parts import Part
from dovetail.runtime.ranks import Alone
from dovetail.sampling import Sampling
from dovetail.settings import TrainSettings


@attrs.define(eq=False)
class Context:
    """What a graph is compiled for, and what the passes have to say about it."""

    agents: Mapping[str, Any]
    settings: TrainSettings
    rewards: tuple[Part, ...] = ()  # the run's own, for the recipe's slot
    driver: Any = None  # plays the environment's episodes and gives its reward; see runtime.scoring.driver_of
    eager: bool = False
    ranks: Alone = attrs.field(factory=Alone)  # the processes that share the work
    step: int = 0  # steps done
    notes: list[str] = attrs.field(factory=list)
    warnings: list[str] = attrs.field(factory=list)

    @property
    def micro_batch_tokens(self) -> int:
        """The budget of a forward pass, as set or by the device."""
        on_cpu = all(agent.device.type == "cpu" for agent in self.agents.values())
        return self.settings.micro_batch_tokens or (4_096 if on_cpu else 16_384)

    def sampling_of(self, node: Node) -> Sampling:
        """The run's sampling with a generate node's own options."""
        own = {key: value for key, value in node.options.items() if key not in GENERATE_COUNTS}
        return attrs.evolve(self.settings.sampling, **own)


@attrs.frozen(eq=False)
class Plan:
    """A graph cut in two; nodes are in the order in which they run."""

    context: Context
    graph: Graph
    collect: tuple[Node, ...]
    learn: tuple[Node, ...]
    carried: tuple[Ref, ...]  # outputs of collect that learn reads
    rollouts: Ref  # whose rows are cut into minibatches

    def is_beside(self, node: Node) -> bool:
        """Whether it looks at samples that are not learnt from, such as those of a baseline."""
        others = self.graph.ancestors([node.name]) - self.graph.ancestors([self.rollouts.node])
        return any(self.graph[name].op.name in SAMPLERS for name in others)


def partition(graph: Graph, context: Context) -> Plan:
    """Cut the graph in two; a RecipeError tells if its losses look at several rollouts."""
    live = _live_nodes(graph, context)
    graph = _freeze_for_collect(graph, live)
    order, inputs = graph.ordered(), graph.input_types()
    learns = {loss.ref.node for loss in graph.losses}
    for node in reversed(order):  # what a learning node reads, unless it is frozen before
        is_live = node.name in live or node.op.place == "learn" or LOSS in node.op.outputs.values()
        if is_live and any(reader.name in learns for reader, _, _ in graph.readers(node.name)):
            learns.add(node.name)
    detached = [] if context.eager or graph.epochs * graph.minibatches > 1 else _made_and_read_by(graph, learns)
    learns.update(detached)
    learn = tuple(node for node in order if node.name in learns)
    read = {ref for node in learn for ref in node.inputs.values()} | {loss.ref for loss in graph.losses}
    carried = {ref for ref in read if ref.node not in learns and inputs.get(ref.node) != AGENT}
    metrics = {node.name for node in order if node.op.name in ("reward", "total")}
    collects = graph.ancestors(metrics | {ref.node for ref in carried}) - inputs.keys()
    collect = tuple(node for node in order if node.name in collects)
    rollouts = [ref for ref in carried if ROLLOUTS in (graph.type_of(ref), inputs.get(ref.node))]
    if len(rollouts) != 1:
        names = ", ".join(sorted(map(str, rollouts))) or "none"
        where = [line for node in learn for line in node.where(node.name)]
        raise RecipeError(f"all losses must look at the same rollouts, and these look at: {names}", where=where)
    detaching = "is the live value, detached: one optimizer step needs no pass of its own"
    context.notes += [
        f"partition: collect = {', '.join(node.name for node in collect) or 'nothing'}",
        f"partition: learn = {', '.join(node.name for node in learn)}",
        *(f"partition: {name} {detaching}" for name in sorted(detached)),
    ]
    return Plan(context, graph, collect, learn, tuple(sorted(carried, key=str)), rollouts[0])


def _live_nodes(graph: Graph, context: Context) -> set[str]:
    """Nodes whose value changes with the weights that are learnt."""
    trainable = {name for name, agent in context.agents.items() if getattr(agent, "trainable", False)}
    live = set(trainable)
    for node in graph.ordered():
        if node.op.place != "collect" and any(ref.node in live for ref in node.inputs.values()):
            live.add(node.name)
    return live - trainable


def _freeze_for_collect(graph: Graph, live: set[str]) -> Graph:
    """Let nodes that run once a step read a copy of a live value from before its optimizer steps."""
    for node in graph:
        if node.op.place == "collect" and node.op.name != "frozen":
            stale = {port: ref for port, ref in node.inputs.items() if ref.node in live}
            for ref in stale.values():
                if f"{ref}@old" not in graph:
                    kind = graph.type_of(ref)
                    op = attrs.evolve(FROZEN, inputs={"live": kind}, outputs={"out": kind})
                    graph = graph.add(Node(f"{ref}@old", op, {"live": ref}, source=node.source))
            frozen = {port: Ref(f"{ref}@old", "out") for port, ref in stale.items()}
            graph = graph.put(attrs.evolve(node, inputs={**node.inputs, **frozen}))
    return graph


def _made_and_read_by(graph: Graph, learns: set[str]) -> list[str]:
    """Frozen values that only learning nodes make and read."""
    frozen = [node for node in graph if node.op.name == "frozen" and node.inputs["live"].node in learns]
    return [node.name for node in frozen if {reader.name for reader, _, _ in graph.readers(node.name)} <= learns]


def schedule(plan: Plan) -> Plan:
    """Start work beside the training thread as early, and wait for it as late, as the graph allows."""
    beside = {node.name for node in plan.collect if node.op.offload}
    last = {n.name for n in plan.collect if beside & plan.graph.ancestors(ref.node for ref in n.inputs.values())}
    first = plan.graph.ancestors(beside - last)
    order = sorted(plan.collect, key=lambda node: (node.name in last) - (node.name in first))
    between = [node.name for node in order if node.name not in first | last]
    if beside and between:
        plan.context.notes.append(f"schedule: {', '.join(sorted(beside))} run beside {', '.join(between)}")
    return attrs.evolve(plan, collect=tuple(order))
