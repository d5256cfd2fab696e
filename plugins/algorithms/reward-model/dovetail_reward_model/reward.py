"""A trained reward model, or several, as a reward."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import attrs
from attrs.validators import and_, ge, instance_of, lt, min_len

from dovetail import hookimpl

if TYPE_CHECKING:
    from torch import Tensor

    from dovetail import Agent, Message

VALUE_HEAD = "value_head.safetensors"


@attrs.frozen(eq=False, slots=False)
class RewardModel:
    """``mean - penalty · std`` of the scores that the models, or draws of dropout, give an answer.

    A score is the value after the answer's end token. Several models are an ensemble: Coste et al. 2023 (arXiv
    2310.02743), whose uncertainty-weighted optimisation is the penalty. A score that is not finite makes the sample
    INVALID. The models read the conversation through their own tokenizer and chat template, so they may be of another
    family than the policy.

    Args:
        models: Folders of reward models, as the recipe ``reward-model`` writes them (``runs/…/final``).
        penalty: Price of a standard deviation among the scores. Usual range 0 to 1; needs several models, or dropout.
        dropout: Share of the heads' inputs that is dropped, at random but for all answers alike; 0 is off. As in
            training, usually 0.1.
        draws: Scores that each model gives under dropout. Usual range 8 to 32.
        device: ``auto`` takes CUDA if there is one.
        dtype: Of the weights.
    """

    models: tuple[str, ...] = attrs.field(converter=tuple, validator=min_len(1))
    penalty: float = attrs.field(default=0.0, validator=ge(0))
    dropout: float = attrs.field(default=0.0, validator=[ge(0), lt(1)])
    draws: int = attrs.field(default=16, validator=and_(instance_of(int), ge(2)))
    device: str = "auto"
    dtype: str = "float32"

    def __attrs_post_init__(self) -> None:
        if self.penalty and len(self.models) == 1 and not self.dropout:
            raise ValueError("penalty needs several models or dropout: one score has no spread")
        for model in self.models:
            if not (Path(model) / VALUE_HEAD).exists():
                raise ValueError(f"models: {model} is no reward model: it has no {VALUE_HEAD}; train one with "
                                 "`algorithm: {use: reward-model}`, and give the folder `final` of its run")  # fmt: skip

    @functools.cached_property
    def _agents(self) -> list[Agent]:
        from dovetail import Agent

        return [Agent(model, head="value", device=self.device, dtype=self.dtype) for model in self.models]  # type: ignore[arg-type]

    @hookimpl
    def on_run_start(self, run: Any) -> None:
        """Load the models before anything has a deadline."""
        for agent in self._agents:
            agent.model  # noqa: B018 - loaded when first asked for

    @hookimpl
    def score(self, messages: Sequence[Sequence[Message]]) -> Tensor:
        """``[B]``; a score that is not finite makes its row INVALID."""
        scores = self.scores(messages)
        spread = scores.std(-1) if self.penalty else 0.0
        return scores.mean(-1) - self.penalty * spread

    def scores(self, messages: Sequence[Sequence[Message]]) -> Tensor:
        """``[B, S]``, the scores of every model (and draw) for each conversation, whose last message is the answer."""
        import torch

        return torch.cat([self._scores_of(agent, messages) for agent in self._agents], -1)

    def uncertainty(self, messages: Sequence[Sequence[Message]]) -> Tensor:
        """``[B]``, the standard deviation of the scores for each conversation."""
        return self.scores(messages).std(-1)

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
        actor: Any = Dropped(agent, self.dropout, self.draws, seed=0) if self.dropout else agent
        budget = 4_096 if agent.device.type == "cpu" else 16_384
        final: Tensor = forward_all(actor, rows, ("values",), budget)["final"].float().cpu()
        return final if final.ndim == 2 else final[:, None]


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
