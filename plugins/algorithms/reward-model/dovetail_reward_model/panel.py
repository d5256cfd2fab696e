"""Reward models that read an answer once, for all the rewards of a run that ask for one of their scores."""

from __future__ import annotations

import functools
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any
from weakref import WeakValueDictionary

if TYPE_CHECKING:
    from torch import Tensor

    from dovetail import Agent, Message

VALUE_HEAD = "value_head.safetensors"


class Panel:
    """Models with the same objectives, and how they are asked. They are loaded, and read a batch, once for all who ask.

    Args:
        models: Folders of reward models.
        dropout: Share of the heads' inputs that is dropped.
        draws: Scores of each model under dropout.
        device: Of all models.
        dtype: Of all models.
    """

    def __init__(self, models: Sequence[str], dropout: float, draws: int, device: str, dtype: str) -> None:
        self._models, self._dropout, self._draws = models, dropout, draws
        self._placed: Any = {"device": device, "dtype": dtype}
        self._one_at_a_time = threading.Lock()
        self._last: tuple[Any, Tensor] | None = None

    @functools.cached_property
    def objectives(self) -> tuple[str, ...]:
        """In the order of the scores; empty if each model has one score without a name."""
        return objectives_of(self._models[0])

    @functools.cached_property
    def agents(self) -> list[Agent]:
        from dovetail import Agent

        return [Agent(model, head="value", objectives=objectives_of(model), **self._placed) for model in self._models]

    def scores(self, messages: Sequence[Sequence[Message]]) -> Tensor:
        """``[B, K, S]``: by conversation, whose last message is the answer, objective (one, if they have no names), and
        model (and draw)."""
        import torch

        told = [[(message.role, message.content) for message in conversation] for conversation in messages]
        with self._one_at_a_time:  # rewards score side by side, in threads
            if self._last is None or self._last[0] != told:
                self._last = told, torch.cat([self._scores_of(agent, messages) for agent in self.agents], -1)
            return self._last[1]

    def _scores_of(self, agent: Agent, messages: Sequence[Sequence[Message]]) -> Tensor:
        import torch

        from dovetail import Origin, Ragged, Rollouts, Task, Tasks
        from dovetail.runtime.forward import forward_all
        from dovetail_reward_model.dropout import Dropped

        tokens = Ragged.from_rows([_encoded(agent, conversation) for conversation in messages], dtype=torch.int64)
        rows = Rollouts(
            tokens=tokens,
            origin=tokens.with_values(torch.full_like(tokens.values, Origin.PROMPT, dtype=torch.uint8)),
            groups=torch.arange(len(tokens)),
            tasks=Tasks(Task("", conversation) for conversation in messages),
        )
        actor: Any = Dropped(agent, self._dropout, self._draws, seed=0) if self._dropout else agent
        budget = 4_096 if agent.device.type == "cpu" else 16_384
        final: Tensor = forward_all(actor, rows, ("values",), budget)["final"].float().cpu()
        scores = final.view(len(rows), len(agent.objectives) or 1, -1)
        return scores[:, [agent.objectives.index(name) for name in self.objectives]] if self.objectives else scores


_panels: WeakValueDictionary[tuple[Any, ...], Panel] = WeakValueDictionary()
_finding = threading.Lock()


def panel_of(models: Sequence[str], *how: Any) -> Panel:
    """The panel that others with the same arguments have, for as long as the models' files are as they were."""
    written = tuple((Path(model) / VALUE_HEAD).stat().st_mtime_ns for model in models)
    with _finding:
        return _panels.setdefault((tuple(models), written, *how), Panel(models, *how))


def objectives_of(model: str) -> tuple[str, ...]:
    """What the scores of a reward model are called; a ValueError if the folder holds none that can be read."""
    from safetensors import SafetensorError

    from dovetail.agents.models import saved_objectives

    head = Path(model) / VALUE_HEAD
    if not head.exists():
        raise ValueError(
            f"models: {model} is no reward model: it has no {VALUE_HEAD}; train one with "
            "`algorithm: {use: reward-model}`, and give the folder `final` of its run"
        )
    try:
        return saved_objectives(head)
    except SafetensorError as error:
        raise ValueError(f"models: {head} cannot be read: {error}") from error


def _encoded(agent: Agent, conversation: Sequence[Message]) -> list[int]:
    """As rows of data are: through the chat template, or text by text with an end token after each answer."""
    if agent.tokenizer.chat_template:
        before = agent.render_chat(conversation[:-1], answer=True)
        after = agent.render_chat(conversation, answer=False)
        pieces = [before, after.removeprefix(before)] if after.startswith(before) else [after]
        tokens = [token for piece in pieces for token in agent.encode_text(piece)]
    else:
        tokens = []
        for index, message in enumerate(conversation):
            tokens += agent.tokenizer(message.content, add_special_tokens=index == 0)["input_ids"]
            tokens += [agent.tokenizer.eos_token_id] * (message.role == "assistant")
    if agent.context is not None and len(tokens) > agent.context:
        raise ValueError(
            f"a conversation has {len(tokens)} tokens, and {agent.name!r} has a context of {agent.context}"
        )
    return tokens
