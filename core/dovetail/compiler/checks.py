"""Static checks of the reinforcement learning in a graph: mistakes that train without an error message."""

from __future__ import annotations

from dovetail.compiler.plan import Context
from dovetail.errors import RecipeError
from dovetail.graph.graph import Graph
from dovetail.graph.node import Node
from dovetail.graph.ops import FORWARD_OPS


def check_learning(graph: Graph, context: Context) -> Graph:
    """Refuse what cannot learn, warn of what is known to go wrong.

    A part tells of itself by a ``traits`` attribute: ``sequence_ratio`` (a loss whose ratio is one number for a
    sequence), ``normalises`` (an estimator that divides by a standard deviation).

    Raises:
        RecipeError: A group estimator with groups of one.
    """
    generators = [node for node in graph if node.op.name == "generate"]
    for node in graph:
        part = node.op.part
        traits = getattr(part.instance, "traits", ()) if part else ()
        if part and part.kind == "advantages":
            if "groups" in part.needs("estimate"):
                _check_groups(node, generators, context)
            above = graph.ancestors(ref.node for port, ref in node.inputs.items() if port == "rewards")
            if "normalises" in traits and any(graph[name].op.name in FORWARD_OPS for name in above):
                context.warnings.append(
                    f"{node} divides by the spread of rewards that hold a KL term: the penalty's strength then depends "
                    "on the batch; put the KL term into the loss, or do not normalise"
                )
        if part and part.kind == "losses":
            is_ratio = "old_logprobs" in part.needs("loss_terms")
            if is_ratio and any(context.sampling_of(generator).truncates for generator in generators):
                context.warnings.append(
                    f"{node} takes ratios on the whole distribution, and tokens are drawn from a truncated one (top_k, "
                    "top_p or min_p): tokens outside it can never be drawn, which biases the gradient; sample without "
                    "truncation"
                )
            if "sequence_ratio" in traits and node.settings().get("reduction") == "token_mean":
                context.warnings.append(
                    f"{node} has one ratio for a whole sequence, and token_mean weighs long sequences more; use "
                    "sequence_mean"
                )
    return graph


def _check_groups(node: Node, generators: list[Node], context: Context) -> None:
    problem = f"{node} compares the samples of a group, and "
    for generator in generators:
        if generator.options.get("samples") == 1:
            raise RecipeError(
                f"{problem}every group has one: its advantage is always 0",
                where=[*node.where("estimator"), *generator.where("samples")],
                hint="raise samples (group_size), or take an estimator that needs no groups",
            )
        if context.sampling_of(generator).greedy:
            where, hint = generator.where("sampled"), "set a temperature above 0"
            raise RecipeError(f"{problem}greedy sampling makes them all the same", where=where, hint=hint)
