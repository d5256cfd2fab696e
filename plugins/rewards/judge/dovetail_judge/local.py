"""A judge in the same process: an agent that answers through its generator."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from dovetail_judge.desk import Failed

if TYPE_CHECKING:
    from dovetail_judge import Judge


class LocalAgent:
    """Answers in batches of ``in_flight``, in a thread, because a generator blocks."""

    def __init__(self, options: Judge) -> None:
        self._options, self._lock = options, threading.Lock()
        self._agent: Any = None
        self.identity = {
            "agent": {str(name): str(value) for name, value in (options.agent or {}).items()},
            "temperature": options.temperature,
            "max_tokens": options.max_tokens,
        }

    async def ask(self, prompts: Sequence[str], tell: Callable[[int, str | Failed], None]) -> None:
        """Answer all; a prompt that is too long for the model fails alone."""
        for start in range(0, len(prompts), self._options.in_flight):
            chosen = prompts[start : start + self._options.in_flight]
            for number, answer in enumerate(await asyncio.to_thread(self._answers, chosen), start=start):
                tell(number, answer)

    def _answers(self, prompts: Sequence[str]) -> list[str | Failed]:
        from dovetail import DataError, Task

        with self._lock:
            if self._agent is None:
                self._agent = _agent(dict(self._options.agent or {}))
            answers: list[str | Failed] = [Failed("the judge gave no answer")] * len(prompts)
            encoded = {}
            for number, prompt in enumerate(prompts):
                try:
                    encoded[number] = self._agent.encode([Task.of(prompt, id=f"judgement {number}")]).tolist()[0]
                except DataError as error:
                    answers[number] = Failed(f"the judge cannot read it: {error.what}")
            if encoded:
                for number, text in zip(encoded, self._generate(list(encoded.values())), strict=True):
                    answers[number] = text
            return answers

    def _generate(self, rows: list[list[int]]) -> list[str]:
        import torch

        from dovetail import Ragged, Sampling

        sampling = Sampling(max_tokens=self._options.max_tokens, temperature=self._options.temperature)
        prompts, seeds = Ragged.from_rows(rows, dtype=torch.int64), torch.zeros(len(rows), dtype=torch.int64)
        generated = self._agent.generate(prompts, 1, sampling, seeds)
        return [self._agent.decode(row) for row in generated.completions.tolist()]


def _agent(options: dict[str, Any]) -> Any:
    import dovetail as dt

    if "tiny" in options:
        return dt.Agent.tiny(**(options.pop("tiny") or {}), **options)
    return dt.Agent(options.pop("model"), **options)
