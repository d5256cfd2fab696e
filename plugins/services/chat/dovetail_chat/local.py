"""A model in the same process: an agent that answers through its generator."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Sequence
from typing import Any

from dovetail.errors import DataError
from dovetail.messages import Message, Task
from dovetail_chat.voice import Failed, Voice, VoiceSettings


class LocalAgent(Voice):
    """Answers in batches of ``in_flight``, in a thread, because a generator blocks."""

    def __init__(self, settings: VoiceSettings) -> None:
        super().__init__(settings)
        self._agent: Any = None
        self._lock = threading.Lock()

    async def ask(
        self,
        conversations: Sequence[Sequence[Message]],
        tell: Callable[[int, str | Failed], None],
        seeds: Sequence[int] | None = None,
    ) -> None:
        for start in range(0, len(conversations), self.settings.in_flight):
            rows = slice(start, start + self.settings.in_flight)
            chosen = conversations[rows]
            answers = await asyncio.to_thread(self._answers, chosen, seeds[rows] if seeds else [0] * len(chosen))
            for number, answer in enumerate(answers, start=start):
                tell(number, answer)

    def _answers(self, conversations: Sequence[Sequence[Message]], seeds: Sequence[int]) -> list[str | Failed]:
        """An answer for each; a conversation that is too long for the model fails alone."""
        with self._lock:
            if self._agent is None:
                self._agent = _load(dict(self.settings.agent or {}))
            found: dict[int, str | Failed] = {}
            encoded: dict[int, list[int]] = {}
            for number, conversation in enumerate(conversations):
                try:
                    encoded[number] = self._agent.encode([Task(str(number), conversation)]).tolist()[0]
                except DataError as error:
                    found[number] = Failed(f"the conversation cannot be read: {error.what}")
            if encoded:
                texts = self._generate(list(encoded.values()), [seeds[number] for number in encoded])
                found.update(zip(encoded, texts, strict=True))
            return [found[number] for number in range(len(conversations))]

    def _generate(self, rows: list[list[int]], seeds: list[int]) -> list[str]:
        import torch

        from dovetail import Ragged, Sampling

        sampling = Sampling(max_tokens=self.settings.max_tokens, temperature=self.settings.temperature)
        prompts = Ragged.from_rows(rows, dtype=torch.int64)
        generated = self._agent.generate(prompts, 1, sampling, torch.tensor(seeds, dtype=torch.int64))
        return [self._agent.decode(row) for row in generated.completions.tolist()]


def _load(options: dict[str, Any]) -> Any:
    import dovetail as dt

    if "tiny" in options:
        return dt.Agent.tiny(**(options.pop("tiny") or {}), **options)
    return dt.Agent(options.pop("model"), **options)
