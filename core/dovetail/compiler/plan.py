"""What the passes hand to one another, and the plan that comes out."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import attrs

from dovetail.graph.graph import Graph
from dovetail.graph.node import Node, Ref
from dovetail.parts import Part
from dovetail.sampling import Sampling


@attrs.define(eq=False)
class Context:
    """What a graph is compiled for.

    Args:
        agents: Input name to agent.
        rewards: The run's own rewards, for the slot.
        environment: Whose episodes score the completions, if there is one.
        sampling: The run's sampling; a generate node's own options override it.
        notes: What each pass did, for ``explain()``.
        warnings: What the static checks advise against.
    """

    agents: Mapping[str, Any]
    rewards: tuple[Part, ...] = ()
    environment: Part | None = None
    sampling: Sampling = attrs.field(factory=Sampling)
    notes: list[str] = attrs.field(factory=list)
    warnings: list[str] = attrs.field(factory=list)

    def note(self, line: str) -> None:
        self.notes.append(line)


Pass = Callable[[Graph, Context], Graph]


@attrs.frozen(eq=False)
class Plan:
    """A partitioned graph.

    Args:
        graph: After all passes.
        collect: Nodes run once a step without gradients, in order.
        learn: Nodes run in every micro-batch with gradients, in order; the losses last.
        carried: Outputs of collect that learn reads.
        detached: Frozen nodes that learn takes from the live value instead of a pass of their own.
        rollouts: The rollouts whose rows are cut into minibatches.
    """

    graph: Graph
    collect: tuple[Node, ...]
    learn: tuple[Node, ...]
    carried: tuple[Ref, ...]
    detached: frozenset[str]
    rollouts: Ref
