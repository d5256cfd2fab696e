"""Schedule: work beside the training thread starts as early and is awaited as late as the graph allows."""

from __future__ import annotations

import attrs

from dovetail.compiler.plan import Context, Plan
from dovetail.graph.node import Node


def schedule(plan: Plan, context: Context) -> Plan:
    """Order the collect nodes: offloaded ones first, those that wait for them last."""
    beside = {node.name for node in plan.collect if node.op.offload}
    after: set[str] = set()
    for node in plan.collect:
        if any(ref.node in beside | after for ref in node.inputs.values()):
            after.add(node.name)

    def rank(node: Node) -> int:
        return 2 if node.name in after and node.name not in beside else 0 if node.name in beside else 1

    names = {node.name for node in plan.collect}
    waiting, order, done = list(plan.collect), [], set()
    while waiting:
        ready = [n for n in waiting if all(ref.node in done or ref.node not in names for ref in n.inputs.values())]
        chosen = min(ready, key=rank)
        order.append(chosen)
        done.add(chosen.name)
        waiting.remove(chosen)
    overlapped = [node.name for node in order if rank(node) == 1 and _starts_before(order, node, beside)]
    if overlapped and beside:
        context.note(f"schedule: {', '.join(sorted(beside))} run beside {', '.join(overlapped)}")
    return attrs.evolve(plan, collect=tuple(order))


def _starts_before(order: list[Node], node: Node, beside: set[str]) -> bool:
    return any(earlier.name in beside for earlier in order[: order.index(node)])
