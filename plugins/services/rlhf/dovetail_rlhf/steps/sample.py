"""Completions of a model as rows."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import attrs
from attrs.validators import ge

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
        from dovetail_rlhf.drawing import opened
        from dovetail_rlhf.rows import all_rows, left_out
        from dovetail_rlhf.work import Work, write_rows
        from dovetail_trainer.config.build import build_agent
        from dovetail_trainer.data import read_prompts

        assert config.policy is not None
        assert config.data is not None
        tasks, work = read_prompts(config.data), Work(folder / "work.jsonl")
        with opened(build_agent(config.policy), (), config.settings, folder, self.samples) as draw:
            work.fill(
                tasks, config.settings.batch_size, lambda batch, chosen: self._entries(chosen, draw(batch, chosen)[0])
            )
        entries = work.entries
        rows = all_rows(entries, "sample")
        write_rows(folder / "rows.jsonl", rows)
        return {"rows": len(rows), "prompts": len(tasks), **left_out(entries)}

    def _entries(self, tasks: Sequence[Any], rollouts: Any) -> Iterator[dict[str, Any]]:
        from dovetail_rlhf.rows import prompt_of

        for place, task in enumerate(tasks):
            texts = rollouts.texts[place * self.samples : (place + 1) * self.samples]
            rows = [{"prompt": prompt_of(task.messages), "completion": text} for text in texts if text.strip()]
            yield {"rows": rows, "left_out": {"empty": len(texts) - len(rows)}}
