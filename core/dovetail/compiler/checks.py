"""Static checks of the reinforcement learning in a graph: mistakes that train without an error message."""

from __future__ import annotations

import attrs

from dovetail.compiler.plan import Context
from dovetail.errors import RecipeError
from dovetail.graph.graph import Graph
from dovetail.graph.node import Node
from dovetail.graph.ops import FORWARD_OPS
from dovetail.parts import HOOKS_BY_KIND
from dovetail.sampling import Sampling


def check_learning(graph: Graph, context: Context) -> Graph:
    """Refuse what cannot learn, warn of what is known to go wrong.

    A part tells of itself by a ``traits`` attribute: ``sequence_ratio`` (a loss whose ratio is one number for a
    sequence), ``normalises`` (an estimator that divides by a standard deviation).

    Raises:
        RecipeError: A group estimator with groups of one.
    """
    generators = [node for node in graph if node.op.name == "generate"]
    samplings = [sampling_of(node, context.sampling) for node in generators]
    for node in graph:
        if node.op.name == "advantages":
            _check_estimator(graph, node, generators, samplings, context)
        elif node.op.name == "loss":
            _check_loss(node, samplings, context)
    return graph


def sampling_of(node: Node, run: Sampling) -> Sampling:
    """The run's sampling with a generate node's own options."""
    own = {key: value for key, value in node.options.items() if key != "samples"}
    return attrs.evolve(run, **own)


def _check_estimator(
    graph: Graph, node: Node, generators: list[Node], samplings: list[Sampling], context: Context
) -> None:
    part = node.op.part
    assert part is not None
    grouped = "groups" in part.needs(HOOKS_BY_KIND[part.kind][0])
    for generator, sampling in zip(generators, samplings, strict=True):
        if grouped and generator.options.get("samples") == 1:
            raise RecipeError(
                f"{node} compares the samples of a group, and every group has one: its advantage is always 0",
                where=[*node.where("estimator"), *generator.where("samples")],
                hint="raise samples (group_size), or take an estimator that needs no groups",
            )
        if grouped and sampling.greedy:
            raise RecipeError(
                f"{node} compares the samples of a group, and greedy sampling makes them all the same",
                where=generator.where("sampled"),
                hint="set a temperature above 0",
            )
    reward = node.inputs.get("rewards")
    above = graph.ancestors([reward.node]) if reward else set()
    if "normalises" in traits(node) and any(graph[name].op.name in FORWARD_OPS for name in above):
        context.warnings.append(
            f"{node} divides by the spread of rewards that hold a KL term: the penalty's strength then depends on the "
            "batch; put the KL term into the loss, or do not normalise"
        )


def _check_loss(node: Node, samplings: list[Sampling], context: Context) -> None:
    part = node.op.part
    assert part is not None
    is_ratio = "old_logprobs" in part.needs("loss_terms")
    if is_ratio and any(sampling.truncates for sampling in samplings):
        context.warnings.append(
            f"{node} takes ratios on the whole distribution, and tokens are drawn from a truncated one (top_k, top_p or "
            "min_p): tokens outside it can never be drawn, which biases the gradient; sample without truncation"
        )
    if "sequence_ratio" in traits(node) and node.settings().get("reduction") == "token_mean":
        context.warnings.append(
            f"{node} has one ratio for a whole sequence, and token_mean weighs long sequences more; use sequence_mean"
        )


def traits(node: Node) -> tuple[str, ...]:
    return tuple(getattr(node.op.part.instance, "traits", ())) if node.op.part else ()
