"""Passes from graph to graph: bind what the run gives, check the learning, leave out what need not run."""

from __future__ import annotations

import attrs

from dovetail.compiler.plan import Context
from dovetail.errors import RecipeError, did_you_mean
from dovetail.graph.complete import complete
from dovetail.graph.graph import Graph
from dovetail.graph.node import Node, Ref
from dovetail.graph.ops import FORWARD_OPS, GENERATE, ROLLOUT, SAMPLERS, part_op, total_op
from dovetail.graph.types import AGENT
from dovetail.parts import HOOKS_BY_KIND

_NEUTRAL = {"add": 0.0, "sub": 0.0, "mul": 1.0, "div": 1.0}


def bind(graph: Graph, context: Context) -> Graph:
    """Fill the rewards slot and wire the implicit ports; a RecipeError tells what is unknown or missing."""
    agents = [name for name, kind in graph.input_types().items() if kind == AGENT]
    for name in context.agents:
        if name not in agents:
            raise RecipeError(f"the recipe has no agent {name!r}", hint=did_you_mean(name, agents))
    for node in graph:
        if node.op.name == "run_rewards":
            graph = _fill_slot(graph, node, context)
        elif node.op is GENERATE and context.driver and context.driver.many_turns:
            context.notes.append(f"bind: {node.name} plays whole episodes")
            graph = graph.put(attrs.evolve(node, op=ROLLOUT))
        elif node.op is ROLLOUT and context.driver is None:
            raise RecipeError(f"{node} plays episodes", where=node.where("made"), hint="pass environment=…")
    return complete(graph)


def _fill_slot(graph: Graph, slot: Node, context: Context) -> Graph:
    parts = [*([context.driver.reward()] if context.driver else []), *context.rewards]
    if not parts:
        where, hint = slot.where("made"), "pass rewards=[…] or environment=…"
        raise RecipeError(f"{slot} has no reward to run", where=where, hint=hint)
    labels = [part.label for part in parts]
    for label in labels:
        if labels.count(label) > 1:
            twins = [f"{part} of {part.provenance}" for part in parts if part.label == label]
            raise RecipeError(f"two rewards are called {label!r}", where=twins, hint="give one of them another name=")
    inputs, stem = {"rollouts": slot.inputs["completions"]}, slot.name.removesuffix("s")
    nodes = [Node(f"{stem}_{part.label}", part_op(part), inputs, source=slot.source) for part in parts]
    ports = {f"reward_{index}": Ref(node.name, "out") for index, node in enumerate(nodes)}
    options = {"weights": tuple(part.weight for part in parts), "labels": tuple(labels)}
    total = Node(slot.name, total_op(len(parts)), ports, options, slot.source)
    context.notes.append(f"bind: {slot.name} = " + " + ".join(f"{part.weight} * {part.label}" for part in parts))
    return graph.with_nodes([*(node for node in graph if node.name != slot.name), *nodes, total])


def check_learning(graph: Graph, context: Context) -> Graph:
    """Refuse what cannot learn, warn of what is known to go wrong.

    A part tells of itself by a ``traits`` attribute: ``sequence_ratio`` (a loss whose ratio is one number for a
    sequence), ``normalises`` (an estimator that divides by a standard deviation), ``cpu_heavy`` (a reward that wants
    a process of its own; see :attr:`Part.in_process`), ``multi_turn`` (an environment whose episodes may have turns).
    """
    generators = [node for node in graph if node.op.name in SAMPLERS]
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


def fold(graph: Graph, context: Context) -> Graph:
    """Use what the options already decide: losses of weight 0, sums with 0, products with 1, ports left unused."""
    kept = tuple(loss for loss in graph.losses if loss.weight != 0)
    context.notes += [f"fold: {loss.ref.node} has weight 0 and goes" for loss in graph.losses if loss.weight == 0]
    graph = graph.with_nodes(graph.nodes, losses=kept or graph.losses)
    for node in graph:
        if part := node.op.part:
            needed = part.needs(HOOKS_BY_KIND[part.kind][0])
            unused = [port for port in node.op.inputs if port not in needed and port != "rollouts"]
            if unused:
                context.notes.append(f"fold: {node.name} leaves {', '.join(unused)} unused")
        elif node.op.function is None and node.options.get("number") == _NEUTRAL.get(node.op.name, ""):
            graph = graph.redirect(node.name, node.inputs["left"])
            context.notes.append(f"fold: {node.name} changes nothing and goes")
    return graph


def merge_common(graph: Graph, context: Context) -> Graph:
    """Two nodes that compute the same from the same become one; inputs bound to one agent are one."""
    seen: dict[object, str] = {}
    for name in [node.name for node in graph.ordered()]:
        node = graph[name]
        if name in context.agents:
            first = seen.setdefault(id(context.agents[name]), name)
        elif node.op.pure and node.op.name != "input":
            inputs = tuple(sorted((port, str(ref)) for port, ref in node.inputs.items()))
            first = seen.setdefault((node.op.identity(), inputs, repr(sorted(node.options.items()))), name)
        else:
            continue
        if first != name:
            for port in node.op.outputs:
                graph = graph.redirect(name, Ref(first, port))
            context.notes.append(f"common: {name} is the same as {first}")
    return graph


def drop_dead(graph: Graph, context: Context) -> Graph:
    """Drop what no loss needs. Rewards stay: they are metrics too."""
    metrics = [node.name for node in graph if node.op.name in ("reward", "total", "input")]
    wanted = graph.ancestors([*metrics, *(loss.ref.node for loss in graph.losses)])
    context.notes += [f"dead: {node.name} is not needed and goes" for node in graph if node.name not in wanted]
    return graph.with_nodes(node for node in graph if node.name in wanted)


def require_agents(graph: Graph, context: Context) -> Graph:
    """Refuse a graph that still reads an agent that was not given."""
    for name, kind in graph.input_types().items():
        readers = graph.readers(name)
        if kind == AGENT and readers and name not in context.agents:
            raise RecipeError(
                f"the agent {name!r} is missing, and {readers[0][0]} reads it",
                where=readers[0][0].where("read"),
                hint=f"pass {name}=dt.Agent(…), or for a reference {name}=policy.frozen()",
            )
    return graph
