"""Rollouts that a recipe builds turn by turn: ``dt.generate_step``, whatever answers it, ``dt.structure_rollout``."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any, get_args

from dovetail.errors import RecipeError, did_you_mean
from dovetail.graph.edit import Handle, add_node, current_editor
from dovetail.graph.node import Op, Ref, caller
from dovetail.graph.types import AGENT, ANY, PROMPTS, ROLLOUTS, SCALAR, PortType
from dovetail.rollouts import Rollouts, Scores
from dovetail.sampling import Sampling
from dovetail_episodes.calls import Format
from dovetail_episodes.history import History

HISTORY = PortType("history", ("B",))
_OUTPUTS = {"out": ROLLOUTS, "text": ANY, "tool_requests": ANY, "history": HISTORY}


def generate_step(
    policy: Handle,
    prompts_or_history: Handle,
    tool_responses: Handle | None = None,
    *,
    samples: int | None = None,
    call_format: Format = "hermes",
    name: str | None = None,
    **sampling: Any,
) -> Handle:
    """One turn of the policy in every conversation of a batch.

    The first turn reads prompts and begins ``samples`` conversations for each. A later one reads the ``history`` of the
    step before it and what the conversations are told in between: for each row a text, or several, which answer its
    tool calls in their order or, if it made none, speak as the user; messages; or nothing, and the row ends there.

    Args:
        policy: Who speaks.
        prompts_or_history: An input of prompts, or ``step.history``.
        tool_responses: What each row is told before a later turn, ``[B]``.
        samples: Conversations for each prompt, usually 4 to 16; for the first turn only. Default 1.
        call_format: How tool calls are written; see :func:`dovetail_episodes.calls.parse_calls`.
        name: Of the node.
        sampling: Fields of :class:`~dovetail.Sampling` that override the run's.

    Returns:
        A node whose outputs are the rollouts of this turn alone, with all that was said before as their prompt (in a row
        that has ended the turn is empty), for rewards that look at one step; ``text``, a list of ``[B]`` strings;
        ``tool_requests``, a list of ``[B]`` tuples of :class:`~dovetail.ToolCall`; ``history``, for the next step.
    """
    line = caller()
    if call_format not in get_args(Format):
        hint = did_you_mean(call_format, get_args(Format))
        raise RecipeError(f"call_format {call_format!r} is unknown", where=[line], hint=hint)
    wired = {"policy": policy, "prompts": prompts_or_history}
    options: dict[str, Any] = {} if samples is None else {"samples": samples}
    if not isinstance(prompts_or_history, Handle):
        raise RecipeError("generate_step reads prompts or a history", where=[line], hint="pass step.history")
    if prompts_or_history.type == ROLLOUTS:
        what = f"generate_step goes on from a history, and {prompts_or_history.name!r} is the rollouts of one turn"
        raise RecipeError(what, where=[line], hint=f"pass {prompts_or_history.name}.history")
    later = prompts_or_history.type == HISTORY
    if later and (tool_responses is None or samples is not None):
        what = "a later turn goes on with the samples that there are, and needs to know what they are told"
        raise RecipeError(what, where=[line], hint="pass tool_responses, and samples to the first turn alone")
    if tool_responses is not None:
        wired["tool_responses"] = tool_responses
    types = {"policy": AGENT, "prompts": HISTORY if later else PROMPTS, "tool_responses": ANY}
    made = Op(
        "generate_step",
        {port: types[port] for port in wired},
        _OUTPUTS,
        None,
        _turn(call_format),
        "collect",
        pure=False,
    )
    node = add_node(made, wired, name, {} if later else {"samples": 1})
    return current_editor("generate_step").set(node.name, **options, **sampling)


@functools.cache
def _turn(call_format: Format) -> Callable[..., dict[str, Any]]:
    """The function of a step: one for each format, because nodes with equal functions are equal."""

    def generate_step(
        agent: Any, inputs: Mapping[str, Any], samples: int, sampling: Sampling, seed: int
    ) -> dict[str, Any]:
        given = inputs["prompts"]
        if isinstance(given, History):
            history = given.told(inputs["tool_responses"])
        else:
            history = History.begun(agent, given, samples, sampling)
        history.take_turn(agent, samples, sampling, seed, call_format)
        return {"out": history.turn(), "text": history.texts, "tool_requests": history.calls, "history": history}

    return generate_step


def structure_rollout(*steps: Handle, rewards: Sequence[Handle | None] = (), name: str | None = None) -> Handle:
    """The whole rollout that steps make, each of which goes on from the one before it.

    Args:
        steps: Nodes of :func:`generate_step`, in their order.
        rewards: For each step a reward of its own, or None. They become the rollouts' ``step_rewards``, which estimators
            such as ``turn`` give to the tokens of that turn. A row whose step has no valid reward leaves the batch.
        name: Of the node.

    Returns:
        Rollouts ``[B]`` with the tokens of all turns, of which only the sampled ones carry loss.
    """
    line = caller()
    if not steps:
        raise RecipeError(
            "structure_rollout needs at least one step", where=[line], hint="pass what generate_step gave"
        )
    if len(rewards) > len(steps):
        raise RecipeError(f"{len(rewards)} rewards for {len(steps)} steps", where=[line], hint="give one for each step")
    graph = current_editor("structure_rollout").graph
    before: Handle | None = None
    for step in steps:
        node = graph[step.name]
        if node.op.name != "generate_step":
            raise RecipeError(f"{step.name!r} is no step", where=[line], hint="pass what generate_step gave")
        first = node.op.inputs["prompts"] != HISTORY
        if first if before is not None else not first:
            what = "does not go on from any" if first else "is not the first of its rollout"
            raise RecipeError(f"the step {step.name!r} {what}", where=[line], hint="pass the steps in their order")
        if before is not None and node.inputs["prompts"] != Ref(before.name, "history"):
            raise RecipeError(f"the step {step.name!r} does not go on from {before.name!r}", where=[line])
        before = step
    wired = {f"reward_{place}": reward for place, reward in enumerate(rewards) if reward is not None}
    types = {"history": HISTORY, **dict.fromkeys(wired, SCALAR)}
    made = Op("op", types, {"out": ROLLOUTS}, None, _whole, "collect", pure=False)
    return add_node(made, {"history": steps[-1].history, **wired}, name or "rollout")


def _whole(history: History, **rewards: Scores) -> Rollouts:
    by_turn = {int(port.removeprefix("reward_")): scores.values.nan_to_num(0.0) for port, scores in rewards.items()}
    return history.whole(by_turn)
