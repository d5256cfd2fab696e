"""A language model as the judge of completions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import attrs
from attrs.validators import ge, gt, in_

from dovetail import Invalid, Message, Tasks, hookimpl

if TYPE_CHECKING:
    from dovetail_chat import Voice

RUBRIC = "Is the answer correct, helpful and clear?"


@attrs.define(eq=False)
class Judge:
    """Score in [0, 1], one per sequence. A judgement that fails or cannot be read is invalid, never a number.

    ``pointwise``: the judge gives each answer a score s from ``low`` to ``high``; the reward is
    (s - low) / (high - low). ``pairwise``: it compares the answers to one task, each pair in both orders; the reward is
    the mean over an answer's pairs of 1 for a pair that it wins in both orders, 0 for one that it loses in both, and
    0.5 otherwise, so a judge that prefers a position prefers no answer. Equal answers are not sent: they share 0.5.

    Args:
        url: Base of an OpenAI-compatible endpoint, such as ``http://localhost:8000/v1``; with ``model``.
        model: The model's name there.
        agent: Instead of them, the options of a local ``dt.Agent``, such as ``{model: Qwen/Qwen2.5-7B-Instruct}``; it
            answers through any generator part.
        mode: ``pointwise``, or ``pairwise``, which needs groups of two or more.
        rubric: What the judge shall look at.
        reference: The task's column that the judge is shown as a reference, such as ``answer``.
        low: The worst score on the judge's scale. Usual value 1.
        high: The best score. Usual range 5 to 10.
        opponents: Of each answer in its group, the next ones in a circle; null compares all pairs. Usual range 1 to 4.
        max_tokens: Of a judgement. Usual range 128 to 2048, more for models that think first.
        temperature: Of the judge. Usual value 0.
        key_variable: The environment variable that holds the endpoint's key, if it needs one.
        timeout: Seconds for one request.
        deadline: Seconds for one judgement, with its retries and its wait for a place; below the run's
            ``reward_timeout``, so that late ones cost themselves alone.
        retries: How often a request is sent again after a connection error, a 429 or a 5xx; the pauses double, and
            follow ``Retry-After``.
        in_flight: Requests at a time. Usual range 8 to 128.
        cache: A file for judgements that could be read, relative to the run's folder; null keeps none.
    """

    url: str | None = None
    model: str | None = None
    agent: Mapping[str, Any] | None = None
    mode: Literal["pointwise", "pairwise"] = attrs.field(default="pointwise", validator=in_(["pointwise", "pairwise"]))
    rubric: str = RUBRIC
    reference: str | None = None
    low: float = 1.0
    high: float = 10.0
    opponents: int | None = attrs.field(default=None, validator=attrs.validators.optional(ge(1)))
    max_tokens: int = attrs.field(default=512, validator=ge(1))
    temperature: float = attrs.field(default=0.0, validator=ge(0))
    key_variable: str = "OPENAI_API_KEY"
    timeout: float = attrs.field(default=30.0, validator=gt(0))
    deadline: float = attrs.field(default=50.0, validator=gt(0))
    retries: int = attrs.field(default=4, validator=ge(0))
    in_flight: int = attrs.field(default=32, validator=ge(1))
    cache: str | None = "judgements.sqlite"
    _desk: Any = attrs.field(default=None, init=False, repr=False)
    _folder: Path | None = attrs.field(default=None, init=False, repr=False)

    def __attrs_post_init__(self) -> None:
        self.voice()
        if not self.low < self.high:
            raise ValueError(f"low must be below high, got {self.low:g} and {self.high:g}")

    def voice(self) -> Voice:
        """Who judges."""
        from dovetail_chat import VoiceSettings, voice_of

        return voice_of({field.name: getattr(self, field.name) for field in attrs.fields(VoiceSettings)})

    def ignores(self) -> tuple[str, ...]:
        """Only pairs need groups."""
        return () if self.mode == "pairwise" else ("groups",)

    @hookimpl
    def on_run_start(self, run: Any) -> None:
        """Keep judgements in the run's folder."""
        self._folder = Path(run.directory)

    @hookimpl
    async def score(self, messages: Sequence[Sequence[Message]], tasks: Tasks, groups: Any) -> list[float | Invalid]:
        """One number in [0, 1] for each conversation, or why there is none."""
        from dovetail_judge import scoring

        references = [None] * len(messages) if self.reference is None else tasks[self.reference]
        cases = [
            scoring.Case(tuple(said[:-1]), said[-1].content, told)
            for said, told in zip(messages, references, strict=True)
        ]
        if self.mode == "pointwise":
            return await scoring.pointwise(self, self._opened(), cases)
        return await scoring.pairwise(self, self._opened(), cases, groups.tolist())

    @hookimpl
    def on_run_end(self, run: Any, outcome: str) -> None:
        """Close the file of judgements."""
        if self._desk is not None:
            self._desk.close()
            self._desk = None

    def _opened(self) -> Any:
        if self._desk is None:
            from dovetail_judge.desk import Desk

            self._desk = Desk.of(self, self._folder)
        return self._desk
