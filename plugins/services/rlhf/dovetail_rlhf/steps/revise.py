"""Answers that a model criticises and revises, by principles."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import attrs
from attrs.validators import min_len

if TYPE_CHECKING:
    from dovetail_rlhf.stages import StepConfig

CRITIQUE = """Here is a conversation.

{conversation}

Identify specific ways in which the assistant's last answer does not follow this principle: {principle}

Answer with the criticism alone."""
REVISION = """Here is a conversation.

{conversation}

A criticism of the assistant's last answer, by the principle "{principle}":

{critique}

Rewrite the assistant's last answer so that it follows the principle. Answer with the new answer alone."""

Row = Mapping[str, Any]


class _Asking:
    """Asks the voice about each row and keeps what it says; an answer that fails is left out and counted."""

    voice: Mapping[str, Any]

    def __attrs_post_init__(self) -> None:
        self._voice()

    def _voice(self) -> Any:
        from dovetail_chat import voice_of

        return voice_of(self.voice)

    def _ask(self, config: StepConfig, folder: Path, step: str, question: Callable[[int, Row], tuple[str, Row]],
             told: Callable[[Row, str], Row]) -> dict[str, float]:  # fmt: skip
        """Write ``rows.jsonl``.

        Args:
            config: Of the stage.
            folder: Of the stage.
            step: Its name, for errors.
            question: Of the number of a row and the row: what is asked, and the row with what was drawn for it.
            told: Of a row and the answer: the row as it goes on.
        """
        from dovetail_rlhf.rows import all_rows, left_out
        from dovetail_rlhf.work import Work, write_rows
        from dovetail_trainer.data import read_rows

        assert config.data is not None
        rows, work, size, voice = (
            read_rows(config.data),
            Work(folder / "work.jsonl"),
            config.settings.batch_size,
            self._voice(),
        )

        def entries(batch: int, chosen: Sequence[Row]) -> Iterator[dict[str, Any]]:
            asked = [question(batch * size + place, row) for place, row in enumerate(chosen)]
            seeds = [config.settings.seed + batch * size + place for place in range(len(chosen))]
            answers = asyncio.run(_answers(voice, [text for text, _ in asked], seeds))
            _refuse_too_many(answers, config.settings.max_invalid)
            for (_, row), answer in zip(asked, answers, strict=True):
                is_text = isinstance(answer, str) and answer.strip()
                kept = [dict(told(row, str(answer).strip()))] if is_text else []
                yield {"rows": kept, "left_out": {} if kept else {"no answer": 1}}

        work.fill(list(rows), size, entries)
        made = work.entries
        kept = all_rows(made, step)
        write_rows(folder / "rows.jsonl", kept)
        return {"rows": len(kept), "inputs": len(rows), **left_out(made)}


async def _answers(voice: Any, questions: Sequence[str], seeds: Sequence[int]) -> list[Any]:
    from dovetail.messages import Message

    found: dict[int, Any] = {}
    await voice.ask([[Message("user", text)] for text in questions], found.__setitem__, seeds)
    return [found.get(number) for number in range(len(questions))]


def _refuse_too_many(answers: Sequence[Any], allowed: float) -> None:
    from dovetail.errors import TooManyInvalid

    failed = [answer for answer in answers if not isinstance(answer, str) or not answer.strip()]
    if len(failed) > allowed * len(answers):
        raise TooManyInvalid(
            f"{len(failed)} of {len(answers)} questions have no answer, and max_invalid allows {allowed:.0%}",
            where=[f"for example: {failed[0] or 'an empty answer'}"], hint="mend the voice and go on, or raise max_invalid",
        )  # fmt: skip


def _conversation(row: Row) -> str:
    from dovetail_trainer.layouts import demonstration

    return "\n\n".join(f"[{message.role}] {message.content}" for message in demonstration(row)[0].messages)


@attrs.frozen(slots=False)
class Critique(_Asking):
    """What is wrong with each answer by a principle, drawn by the seed: columns ``principle`` and ``critique``.

    Bai et al. 2022, *Constitutional AI* (arXiv 2212.08073), section 3.1.

    Args:
        voice: Who criticises, in the words of dovetail-chat: ``{url: …, model: …}`` or ``{agent: {model: …}}``.
        principles: What answers are held to, a sentence each.
    """

    voice: Mapping[str, Any]
    principles: tuple[str, ...] = attrs.field(converter=tuple, validator=min_len(1))

    name: ClassVar[str] = "critique"
    needs: ClassVar[tuple[str, ...]] = ("data",)
    takes: ClassVar[tuple[str, ...]] = ()
    reads: ClassVar[str] = "answers"
    output: ClassVar[str] = "answers"

    def make(self, config: StepConfig, folder: Path) -> dict[str, float]:
        """Write ``rows.jsonl``; gives the figures."""

        def question(number: int, row: Row) -> tuple[str, Row]:
            principle = random.Random(f"{config.settings.seed} {number}").choice(self.principles)
            text = CRITIQUE.format(conversation=_conversation(row), principle=principle)
            return text, {**row, "principle": principle}

        return self._ask(config, folder, self.name, question, lambda row, answer: {**row, "critique": answer})


@attrs.frozen(slots=False)
class Revise(_Asking):
    """Each answer as its critique wants it; the first one stays in the column ``draft``.

    Bai et al. 2022 (arXiv 2212.08073), section 3.1. A further pair of ``critique`` and ``revise`` is a second round.

    Args:
        voice: Who rewrites, as for ``critique``.
    """

    voice: Mapping[str, Any]

    name: ClassVar[str] = "revise"
    needs: ClassVar[tuple[str, ...]] = ("data",)
    takes: ClassVar[tuple[str, ...]] = ()
    reads: ClassVar[str] = "answers"
    output: ClassVar[str] = "answers"

    def make(self, config: StepConfig, folder: Path) -> dict[str, float]:
        """Write ``rows.jsonl``; gives the figures."""

        def question(_: int, row: Row) -> tuple[str, Row]:
            from dovetail.errors import DataError

            if "principle" not in row or "critique" not in row:
                hint = "let a stage with `make: critique` come before"
                raise DataError(f"a row to revise has no critique (it has: {', '.join(sorted(row))})", hint=hint)
            said = {"principle": row["principle"], "critique": row["critique"]}
            return REVISION.format(conversation=_conversation(row), **said), row

        return self._ask(config, folder, self.name, question, _revised)


def _revised(row: Row, answer: str) -> Row:
    return {**row, "draft": row["completion"], "completion": answer}
