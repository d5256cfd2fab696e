"""The words of a recipe: each makes a node in the graph that is being traced."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Mapping
from typing import Any

import attrs

from dovetail.errors import RecipeError
from dovetail.graph.edit import Handle, add_node, check_counts, current_editor, ref_of
from dovetail.graph.graph import LossTerm
from dovetail.graph.node import Op, Place
from dovetail.graph.ops import ENTROPY, GENERATE, LOGPROBS, REWARD_SLOT, ROLLOUT, VALUES, part_op, ports_of
from dovetail.graph.types import AGENT, ANY, LOSS, PER_TOKEN, ROLLOUTS, SCALAR, PortType
from dovetail.registry import registry

DEFAULT_ADVANTAGES = "group"


def generate(policy: Handle, prompts: Handle, *, samples: int = 1, name: str | None = None, **sampling: Any) -> Handle:
    """Sample ``samples`` completions for each prompt; fields of :class:`~dovetail.Sampling` override the run's. A trainer
    replaces groups that teach nothing by further prompts, drawing at most ``draws`` batches in all (default 1)."""
    return _sampler(GENERATE, policy, prompts, name, {"samples": samples, **sampling})


def rollout(
    policy: Handle, environment: Handle, *, samples: int = 1, name: str | None = None, **sampling: Any
) -> Handle:
    """Play a group of episodes for each task of the run's environment, which is an input of the recipe."""
    return _sampler(ROLLOUT, policy, environment, name, {"samples": samples, **sampling})


def _sampler(op: Op, policy: Handle, prompts: Handle, name: str | None, options: Mapping[str, Any]) -> Handle:
    node = add_node(op, {"policy": policy, "prompts": prompts}, name, {"samples": 1})
    return current_editor(op.name).set(node.name, **options)


def logprobs(agent: Handle, prompts: Handle, completions: Handle | None = None, *, name: str | None = None) -> Handle:
    """Log-probability of each sampled token; ``per_token[B, T]``. Offline: ``dt.logprobs(policy, demonstrations)``."""
    return _forward_node(LOGPROBS, agent, prompts, completions, name)


def entropy(agent: Handle, prompts: Handle, completions: Handle | None = None, *, name: str | None = None) -> Handle:
    """Entropy in nats of ``agent``'s distribution at each sampled token; ``per_token[B, T]``."""
    return _forward_node(ENTROPY, agent, prompts, completions, name)


def values(agent: Handle, prompts: Handle, completions: Handle | None = None, *, name: str | None = None) -> Handle:
    """Value, by the agent's value head, of the state before each sampled token; its output ``final`` is after the last."""
    return _forward_node(VALUES, agent, prompts, completions, name)


def _forward_node(op: Op, agent: Handle, prompts: Handle, completions: Handle | None, name: str | None) -> Handle:
    data = {"completions": prompts} if completions is None else {"prompts": prompts, "completions": completions}
    return add_node(op, {"agent": agent, **data}, name)


def run_rewards(completions: Handle, *, name: str = "rewards") -> Handle:
    """The slot for the rewards of the environment and of the run; ``scalar[B]``, their weighted total."""
    return add_node(REWARD_SLOT, {"completions": completions}, name)


def reward(
    part: str, *, weight: Any = 1.0, rollout: Handle | None = None, name: str | None = None, **options: Any
) -> Handle:
    """One reward by registry name; ``+ - *`` compose rewards. ``rollout`` is needed only where there are several."""
    rollouts = {} if rollout is None else {"rollouts": rollout}
    return _part_node("rewards", part, (), {**rollouts, **options, "weight": weight}, name)


def advantages(first: str | Handle, *ports: Handle, name: str | None = None, **options: Any) -> Handle:
    """Advantages by registry name; without one the default estimator. Ports in the order of its hook's arguments."""
    if isinstance(first, Handle):
        return _part_node("advantages", DEFAULT_ADVANTAGES, (first, *ports), options, name)
    return _part_node("advantages", first, ports, options, name)


def loss(part: str, *ports: Handle, name: str | None = None, **options: Any) -> Handle:
    """A loss by registry name. Ports in the order of its hook's arguments, or by keyword."""
    return _part_node("losses", part, ports, options, name)


def _part_node(
    kind: str, part_name: str, ports: tuple[Handle, ...], named: Mapping[str, Any], name: str | None
) -> Handle:
    wired, options = _split(named)
    part = registry(kind)[part_name](**options)
    # A rollouts handle in first place says which rollouts are meant; the part's own ports follow.
    if ports and isinstance(ports[0], Handle) and ports[0].type == ROLLOUTS:
        wired["rollouts"], ports = ports[0], ports[1:]
    order = ports_of(part)
    if len(ports) > len(order):
        hint = f"its ports are {', '.join(order)}"
        raise RecipeError(f"{part} takes {len(order)} ports, got {len(ports)}", hint=hint)
    settings = {"weight": part.weight} if kind == "rewards" else {}
    return add_node(part_op(part), {**dict(zip(order, ports, strict=False)), **wired}, name, settings)


def _split(arguments: Mapping[str, Any]) -> tuple[dict[str, Handle], dict[str, Any]]:
    """What is wired, and what is an option."""
    wired = {key: value for key, value in arguments.items() if isinstance(value, Handle)}
    return wired, {key: value for key, value in arguments.items() if key not in wired}


def set_loss(node: Handle, *, epochs: int = 1, minibatches: int = 1, after: int = 0) -> None:
    """What the run minimises, from step ``after`` on: before, agents that no other loss reaches stay as they are.

    Each batch is learnt from ``epochs`` times (usually 1 to 4), in ``minibatches`` steps.
    """
    editor = current_editor("set_loss")
    check_counts(epochs=epochs, minibatches=minibatches)
    losses = (LossTerm(ref_of(editor, node, "loss"), after=after),)
    editor.graph = attrs.evolve(editor.graph, losses=losses, epochs=epochs, minibatches=minibatches).check()


def add_loss(node: Handle, weight: float = 1.0) -> None:
    """Add a loss to those that are there."""
    editor = current_editor("add_loss")
    term = LossTerm(ref_of(editor, node, "loss"), weight)
    editor.graph = attrs.evolve(editor.graph, losses=(*editor.graph.losses, term)).check()


def op(function: Callable[..., Any]) -> Callable[..., Any]:
    """Make an operation of a plain or async function.

    Parameters that are given nodes become ports, all else options. ``Agent``, ``Ragged``, ``Rollouts``, ``Scores`` and
    ``LossTerms`` in the hints give typed ports, anything else fits every port. A dict annotation
    ``-> {"rewards": Tensor}`` names several outputs. Called with real values it is the function itself. Async
    functions run beside the training thread and without gradients.
    """
    signature = inspect.signature(function)
    outputs = _outputs(signature.return_annotation)
    is_async = inspect.iscoroutinefunction(function)

    @functools.wraps(function)
    def call(*args: Any, name: str | None = None, **kwargs: Any) -> Any:
        if not any(isinstance(value, Handle) for value in (*args, *kwargs.values())):
            return function(*args, **kwargs)
        try:
            wired, options = _split(signature.bind(*args, **kwargs).arguments)
        except TypeError as error:
            raise RecipeError(f"op {function.__name__!r}: {error}") from None
        ports = {key: _port_type(signature.parameters[key].annotation) for key in wired}
        place: Place = "collect" if is_async else "either"
        made = Op("op", ports, outputs, None, function, place, offload=is_async, pure=False)
        return add_node(made, wired, name, options)

    return call


def _outputs(annotation: Any) -> Mapping[str, PortType]:
    if isinstance(annotation, str) and annotation.startswith("{"):
        entries = [entry.partition(":") for entry in annotation.strip("{}").split(",")]
        annotation = {name.strip().strip("'\""): kind.strip() for name, _, kind in entries}
    if isinstance(annotation, Mapping):
        return {name: _port_type(kind) for name, kind in annotation.items()}
    return {"out": _port_type(annotation)}


def _port_type(annotation: Any) -> PortType:
    if isinstance(annotation, PortType):
        return annotation
    name = annotation if isinstance(annotation, str) else getattr(annotation, "__name__", "")
    types = {"Agent": AGENT, "Ragged": PER_TOKEN, "Rollouts": ROLLOUTS, "Scores": SCALAR, "LossTerms": LOSS}
    return types.get(name.rpartition(".")[2], ANY)
