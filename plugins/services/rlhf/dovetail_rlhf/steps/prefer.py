"""Preferences of rewards among a model's own answers."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import attrs
from attrs.validators import ge, in_

from dovetail_rlhf.steps.answers import rows_of_answers

if TYPE_CHECKING:
    from dovetail_rlhf.stages import StepConfig


@attrs.frozen
class Prefer:
    """Pairs of the policy's answers, of which the rewards prefer one: RLAIF where they are a judge.

    Lee et al. 2023 (arXiv 2309.00267). A row has ``prompt``, ``chosen``, ``rejected``, their scores and the ``margin``
    between them. A judgement that is not valid prefers nothing: the answer is left out and counted, and so are ties.

    Args:
        samples: Answers to each prompt. Usual range 2 to 8.
        pairs: ``extremes`` takes the best and the worst answer to a prompt, ``all`` every two that differ.
        min_margin: Pairs that differ by no more than this are ties.
    """

    samples: int = attrs.field(default=4, validator=ge(2))
    pairs: Literal["extremes", "all"] = attrs.field(default="extremes", validator=in_(["extremes", "all"]))
    min_margin: float = attrs.field(default=0.0, validator=ge(0))

    name: ClassVar[str] = "prefer"
    needs: ClassVar[tuple[str, ...]] = ("policy", "data", "rewards")
    takes: ClassVar[tuple[str, ...]] = ()
    reads: ClassVar[str] = "prompts"
    output: ClassVar[str] = "pairs"

    def make(self, config: StepConfig, folder: Path) -> dict[str, float]:
        """Write ``rows.jsonl``; gives the figures."""
        rows, figures = rows_of_answers(config, folder, self.name, self.samples, self._entries)
        return {**figures, "margin": sum(row["margin"] for row in rows) / len(rows)}

    def _entries(self, tasks: Sequence[Any], rollouts: Any, total: Any) -> Iterator[dict[str, Any]]:
        for place, task in enumerate(tasks):
            mine = range(place * self.samples, (place + 1) * self.samples)
            answers = [(float(total.values[row]), rollouts.texts[row]) for row in mine if bool(total.valid[row])]
            yield self._entry(task, answers, self.samples - len(answers))

    def _entry(self, task: Any, answers: Sequence[tuple[float, str]], invalid: int) -> dict[str, Any]:
        from dovetail_rlhf.rows import prompt_of

        ranked = sorted(((score, text) for score, text in answers if text.strip()), key=lambda each: -each[0])
        empty = len(answers) - len(ranked)
        both = list(itertools.combinations(ranked, 2))
        if self.pairs == "extremes" and ranked:
            both = [(ranked[0], ranked[-1])][: len(ranked) - 1]
        rows = [
            {"prompt": prompt_of(task.messages), "chosen": chosen, "rejected": rejected,
             "score_chosen": better, "score_rejected": worse, "margin": better - worse}
            for (better, chosen), (worse, rejected) in both
            if better - worse > self.min_margin and chosen != rejected
        ]  # fmt: skip
        counts = {"invalid judgements": invalid, "empty answers": empty, "ties": len(both) - len(rows)}
        return {"rows": rows, "left_out": counts}
