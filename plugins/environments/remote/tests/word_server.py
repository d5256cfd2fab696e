"""A server of its own process for the tests: ``python word_server.py CONFIG`` serves the environment ``word``."""

from __future__ import annotations

import asyncio
import itertools
import sys
from pathlib import Path

import attrs

import dovetail as dt
from dovetail.errors import DataError

WORDS = ("apple", "bread", "cloud", "delta", "eagle", "flame", "grape", "house")


@attrs.frozen
class Word:
    """Repeat a word twice; some answers make trouble.

    Args:
        log: A file that gets a line for each environment that is made and closed.
    """

    traits = ("multi_turn",)

    log: str | None = None

    @dt.hookimpl
    def tasks(self, split):
        if split == "endless":
            return (dt.Task.of("again", str(number)) for number in itertools.count())
        if split == "gone":
            raise DataError("no such split")
        chosen = [word for row, word in enumerate(WORDS) if (row % 4 == 3) == (split == "test")]
        return [
            dt.Task(word, (dt.Message("user", f"Write {word} twice"),), word, {"letters": 5, "v": 0.5})
            for word in chosen
        ]

    @dt.hookimpl
    async def make(self):
        self._note("made")
        return Episode(self)

    def _note(self, text):
        if self.log:
            with Path(self.log).open("a") as file:
                file.write(text + "\n")


class Episode:
    """Two turns; each that is the word brings a half."""

    tools = (dt.ToolSpec("spell", "Spells a word.", {"type": "object", "properties": {"n": {"maximum": 3}}}),)
    agents = ("agent",)

    def __init__(self, options):
        self._options, self._left, self._closed = options, 0, False

    async def reset(self, *, seed, task=None):
        self._task = task or self._options.tasks("train")[seed % 6]
        self._left, self._steps = 2, 0
        return dt.StepResult(self._task.messages, info={"seed": seed, "share": 1.0, "none": None})

    async def step(self, action):
        if not self._left:
            raise RuntimeError("step was called after the end of the episode, or before reset")
        await TROUBLE.get(action.content, nothing)(self._options)
        self._left -= 1
        self._steps += 1
        right = 0.5 * (action.content == self._task.answer)
        text = "x" * 2_000_000 if action.content == "long" else "again"
        return dt.StepResult(
            [
                dt.Message(
                    "tool",
                    text,
                    tool_call_id=action.tool_calls[0].id if action.tool_calls else "1",
                    meta={"step": self._steps},
                )
            ],
            reward=float(right),
            reward_components={"right": float(right)},
            terminated=not self._left,
            stop_reason=None if self._left else dt.StopReason.COMPLETED,
            info={"steps": self._steps},
        )

    async def close(self):
        if not self._closed:
            self._closed = True
            self._options._note("closed")


async def nothing(options):
    pass


async def hang(options):
    await asyncio.sleep(3600)


async def fail(options):
    raise KeyError("no such thing")


async def lack(options):
    raise DataError("there is no word list", hint="download it")


async def huge(options):
    raise ValueError("x" * 100_000)


async def wait(options):
    options._note("waiting")
    while not Path(options.log).with_name("go").exists():
        await asyncio.sleep(0.01)


TROUBLE = {"hang": hang, "fail": fail, "huge": huge, "lack": lack, "wait": wait}


def main(config):
    from dovetail_trainer.cli.main import main

    dt.environments.register("word", Word)
    return main(["serve", "environments", config])


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
