"""A trained reward model, or several, as a reward."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import attrs
from attrs.validators import and_, ge, instance_of, lt, min_len

from dovetail import hookimpl
from dovetail.errors import did_you_mean
from dovetail_reward_model.panel import Panel, objectives_of, panel_of

if TYPE_CHECKING:
    from torch import Tensor

    from dovetail import Message


@attrs.frozen(eq=False, slots=False)
class RewardModel:
    """``mean - penalty · std`` of the scores that the models, or draws of dropout, give an answer.

    A score is the value after the answer's end token. Several models are an ensemble: Coste et al. 2023 (arXiv
    2310.02743), whose uncertainty-weighted optimisation is the penalty. A score that is not finite makes the sample
    INVALID. The models read the conversation through their own tokenizer and chat template, so they may be of another
    family than the policy.

    Args:
        models: Folders of reward models, as the recipe ``reward-model`` writes them (``runs/…/final``).
        objectives: Which scores of models with several objectives count, and by how much: the score is their weighted
            sum. One alone is a reward by its own name; rewards with the same models share them.
        penalty: Price of a standard deviation among the scores. Usual range 0 to 1; needs several models, or dropout.
        dropout: Share of the heads' inputs that is dropped, at random but for all answers alike; 0 is off. As in
            training, usually 0.1.
        draws: Scores that each model gives under dropout. Usual range 8 to 32.
        device: ``auto`` takes CUDA if there is one.
        dtype: Of the weights.
    """

    models: tuple[str, ...] = attrs.field(converter=tuple, validator=min_len(1))
    objectives: Mapping[str, float] = attrs.field(factory=dict)
    penalty: float = attrs.field(default=0.0, validator=ge(0))
    dropout: float = attrs.field(default=0.0, validator=[ge(0), lt(1)])
    draws: int = attrs.field(default=16, validator=and_(instance_of(int), ge(2)))
    device: str = "auto"
    dtype: str = "float32"

    def __attrs_post_init__(self) -> None:
        if self.penalty and len(self.models) == 1 and not self.dropout:
            raise ValueError("penalty needs several models or dropout: one score has no spread")
        names = objectives_of(self.models[0])
        for model in self.models[1:]:
            if {*objectives_of(model)} != {*names}:
                told = f"{self.models[0]} {list(names)}, {model} {list(objectives_of(model))}"
                raise ValueError(f"models: an ensemble has the same objectives in all its members, and here {told}")
        unknown = [name for name in self.objectives if name not in names]
        if unknown:
            raise ValueError(
                f"objectives: the models have none called {unknown[0]!r}; {did_you_mean(unknown[0], names)}"
            )
        if names and not self.objectives:
            example = ", ".join(f"{name}: 1" for name in names)
            raise ValueError(f"objectives: the models have several scores; say which of them count: {{{example}}}")

    @functools.cached_property
    def _panel(self) -> Panel:
        return panel_of(self.models, self.dropout, self.draws, self.device, self.dtype)

    @hookimpl
    def on_run_start(self, run: Any) -> None:
        """Load the models before anything has a deadline."""
        for agent in self._panel.agents:
            agent.model  # noqa: B018 - loaded when first asked for

    @hookimpl
    def score(self, messages: Sequence[Sequence[Message]]) -> Tensor:
        """``[B]``; a score that is not finite makes its row INVALID."""
        scores = self.scores(messages)
        spread = scores.std(-1) if self.penalty else 0.0
        return scores.mean(-1) - self.penalty * spread

    def scores(self, messages: Sequence[Sequence[Message]]) -> Tensor:
        """``[B, S]``, the scores of every model (and draw) for each conversation, whose last message is the answer."""
        scores = self._panel.scores(messages)
        wanted = [self._panel.objectives.index(name) for name in self.objectives] if self.objectives else [0]
        weights = scores.new_tensor(list(self.objectives.values()) or [1.0])
        return (scores[:, wanted] * weights[:, None]).sum(1)

    def uncertainty(self, messages: Sequence[Sequence[Message]]) -> Tensor:
        """``[B]``, the standard deviation of the scores for each conversation."""
        return self.scores(messages).std(-1)
