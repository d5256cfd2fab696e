"""The words of a recipe: each makes a node in the graph that is being traced."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from dovetail.errors import RecipeError, did_you_mean
from dovetail.graph.edit import Handle, editor, make_part
from dovetail.graph.node import caller
from dovetail.graph.ops import ENTROPY, GENERATE, LOGPROBS, REWARD_SLOT, VALUES, generate_options, part_op, ports_of
from dovetail.graph.types import ROLLOUTS

DEFAULT_ADVANTAGES = "group"


def generate(policy: Handle, prompts: Handle, *, samples: int = 1, name: str | None = None, **sampling: Any) -> Handle:
    """Sample ``samples`` completions for each prompt.

    Args:
        policy: The agent that samples.
        prompts: Tasks.
        samples: Completions for each prompt; they form a group.
        name: Of the node.
        sampling: Fields of :class:`~dovetail.sampling.Sampling` that override the run's.
    """
    known = generate_options()
    for key in sampling:
        if key not in known:
            raise RecipeError(f"generate has no option {key!r}", where=[str(caller())], hint=did_you_mean(key, known))
    if not isinstance(samples, int) or samples < 1:
        raise RecipeError(f"samples must be a whole number from 1, got {samples!r}", where=[str(caller())])
    return editor("dt.generate").add(
        GENERATE, {"policy": policy, "prompts": prompts}, {"samples": samples, **sampling}, name
    )


def logprobs(agent: Handle, prompts: Handle, completions: Handle | None = None, *, name: str | None = None) -> Handle:
    """Log-probability of each sampled token under ``agent``; ``per_token[B, T]``.

    Offline recipes pass their data alone: ``dt.logprobs(policy, demonstrations)``.
    """
    return editor("dt.logprobs").add(LOGPROBS, _forward(agent, prompts, completions), name=name)


def entropy(agent: Handle, prompts: Handle, completions: Handle | None = None, *, name: str | None = None) -> Handle:
    """Entropy in nats of ``agent``'s distribution at each sampled token; ``per_token[B, T]``."""
    return editor("dt.entropy").add(ENTROPY, _forward(agent, prompts, completions), name=name)


def values(agent: Handle, prompts: Handle, completions: Handle | None = None, *, name: str | None = None) -> Handle:
    """Value, by the agent's value head, of the state before each sampled token; its output ``final`` is after the last."""
    return editor("dt.values").add(VALUES, _forward(agent, prompts, completions), name=name)


def _forward(agent: Handle, prompts: Handle, completions: Handle | None) -> dict[str, Handle]:
    if completions is None:
        return {"agent": agent, "completions": prompts}
    return {"agent": agent, "prompts": prompts, "completions": completions}


def run_rewards(completions: Handle, *, name: str = "rewards") -> Handle:
    """The slot for the rewards of the environment and of the run; ``scalar[B]``, their weighted total."""
    return editor("dt.run_rewards").add(REWARD_SLOT, {"completions": completions}, name=name)


def reward(
    part: str, *, weight: float = 1.0, rollout: Handle | None = None, name: str | None = None, **options: Any
) -> Handle:
    """One reward by registry name; ``+ - *`` compose rewards. ``rollout`` is needed only where there are several."""
    inputs = {"rollouts": rollout} if rollout is not None else {}
    return _part_node("rewards", part, (), inputs | options, name, {"weight": weight})


def advantages(first: str | Handle, *ports: Handle, name: str | None = None, **options: Any) -> Handle:
    """Advantages by registry name; without one the default estimator. Ports in the order of its hook's arguments."""
    if isinstance(first, Handle):
        return _part_node("advantages", DEFAULT_ADVANTAGES, (first, *ports), options, name)
    return _part_node("advantages", first, ports, options, name)


def loss(part: str, *ports: Handle, name: str | None = None, **options: Any) -> Handle:
    """A loss by registry name. Ports in the order of its hook's arguments, or by keyword."""
    return _part_node("losses", part, ports, options, name)


def _part_node(
    kind: str,
    part_name: str,
    positional: tuple[Handle, ...],
    named: Mapping[str, Any],
    name: str | None,
    settings: Mapping[str, Any] | None = None,
) -> Handle:
    here = editor(f"dt.{kind}")
    wired = {key: value for key, value in named.items() if isinstance(value, Handle)}
    options = {key: value for key, value in named.items() if key not in wired}
    part = make_part(kind, part_name, options)
    order = ports_of(part)
    if len(positional) > len(order):
        raise RecipeError(
            f"{part} takes {len(order)} ports, got {len(positional)}",
            where=[str(caller())],
            hint=f"its ports are {', '.join(order)}",
        )
    # A rollouts handle in first place says which rollouts are meant; the part's own ports follow.
    if positional and positional[0].type == ROLLOUTS:
        wired["rollouts"], positional = positional[0], positional[1:]
    return here.add(part_op(part), {**dict(zip(order, positional, strict=False)), **wired}, settings, name)


def set_loss(node: Handle, *, epochs: int = 1, minibatches: int = 1) -> None:
    """What the run minimises.

    Args:
        node: A loss.
        epochs: Times that each batch is learnt from. Usual range 1 to 4.
        minibatches: Optimizer steps in one epoch.
    """
    editor("dt.set_loss").set_losses(node, epochs=epochs, minibatches=minibatches)


def add_loss(node: Handle, weight: float = 1.0) -> None:
    """Add a loss to those that are there."""
    editor("dt.add_loss").add_loss(node, weight)
