"""Which agents a run has: those that were given, and what stands in for those that were not."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from dovetail.agents.agent import Agent
from dovetail.errors import UserError
from dovetail.graph.graph import Graph
from dovetail.graph.types import AGENT


def complete_agents(graph: Graph, policy: Agent, given: Mapping[str, Agent]) -> dict[str, Agent]:
    """All agents of a recipe by input name.

    A reference that is not given (it is called ``ref_…``, or only log-probs are taken of it) is the policy as it is now,
    a value model the policy itself. The policy learns, and so does an agent whose values a loss compares with their
    targets. A UserError tells of one that has no value head.
    """
    policy.trainable = True
    agents = {**given, "policy": policy}
    names = [name for name, kind in graph.input_types().items() if kind == AGENT]
    for name in names:
        asked = {node.op.name for node, _, _ in graph.readers(name)}
        if name not in agents and (name.startswith("ref_") or asked <= {"logprobs"}):
            agents[name] = policy.frozen()
        elif "values" in asked:
            agent = agents.setdefault(name, policy)
            _require_head(name, agent, shares=agent is policy)
            agent.trainable |= _is_taught(graph, name)
    return agents


def _is_taught(graph: Graph, name: str) -> bool:
    """Whether a loss reads the values of this agent."""
    values = [node.name for node, _, _ in graph.readers(name) if node.op.name == "values"]
    return any(reader.op.name == "loss" for each in values for reader, _, _ in graph.readers(each))


def _require_head(name: str, agent: Agent, *, shares: bool) -> None:
    if agent.objectives:
        problem = f"the recipe takes one value of {name!r}, and its head has the objectives {list(agent.objectives)}"
        raise UserError(problem, hint="leave `objectives` out, or train them by `multi-objective-reward-model`")
    if agent.settings["head"] == "value":
        return
    own = f"{name}: {{model: …, head: value}}"
    if shares:
        problem = f"the recipe takes values of {name!r}, which is not given, and the policy has no value head"
        hint = f"let the two share their weights by policy: {{head: value}}, or give it its own by agents: {{{own}}}"
    else:
        problem, hint = f"the recipe takes values of {name!r}, and that agent has no value head", f"agents: {{{own}}}"
    raise UserError(problem, hint=hint)


def check_tokenizers(graph: Graph, agents: Mapping[str, Agent], names: Iterable[str]) -> None:
    """Refuse, by a UserError, an agent that would read other tokens in the policy's ids."""
    ours = agents["policy"].tokenizer.get_vocab()
    for name in names:
        if agents[name] is agents["policy"] or not (name in graph and graph.readers(name)):
            continue
        theirs = agents[name].tokenizer.get_vocab()
        odd = min((token for token in ours if theirs.get(token) != ours[token]), key=ours.__getitem__, default=None)
        if odd is not None:
            raise UserError(
                f"{name!r} ({agents[name].name}) has another tokenizer than the policy ({agents['policy'].name}): "
                f"the token {odd!r} is {ours[odd]} for the policy and {theirs.get(odd, 'unknown')} for it",
                hint="take a model of the same family, with the same vocabulary",
            )
