"""Completions of a model as rows."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import attrs
from attrs.validators import ge

from dovetail_rlhf.steps.answers import rows_of_answers

if TYPE_CHECKING:
    from dovetail_rlhf.stages import StepConfig


@attrs.frozen
class Sample:
    """Answers of the policy to each prompt, as rows with ``prompt`` and ``completion``. Empty ones are left out.

    Args:
        samples: Answers to each prompt. Usual range 1 to 4.
    """

    samples: int = attrs.field(default=1, validator=ge(1))

    name: ClassVar[str] = "sample"
    needs: ClassVar[tuple[str, ...]] = ("policy", "data")
    takes: ClassVar[tuple[str, ...]] = ()
    reads: ClassVar[str] = "prompts"
    output: ClassVar[str] = "answers"

    def make(self, config: StepConfig, folder: Path) -> dict[str, float]:
        """Write ``rows.jsonl``; gives the figures."""
        return rows_of_answers(config, folder, self.name, self.samples, self._entries)[1]

    def _entries(self, tasks: Sequence[Any], rollouts: Any, _: Any) -> Iterator[dict[str, Any]]:
        from dovetail_rlhf.rows import prompt_of

        for place, task in enumerate(tasks):
            texts = rollouts.texts[place * self.samples : (place + 1) * self.samples]
            rows = [{"prompt": prompt_of(task.messages), "completion": text} for text in texts if text.strip()]
            yield {"rows": rows, "left_out": {"empty": len(texts) - len(rows)}}
