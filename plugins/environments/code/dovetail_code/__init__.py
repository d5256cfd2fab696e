"""Programming problems with tests: read from files, or generated. Programs run in a sandbox."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import attrs
from attrs.validators import and_, deep_iterable, ge, gt, in_, le, lt

from dovetail import Environment, Task, hookimpl

LEVELS = ("constant", "linear", "branch", "list", "text")


@attrs.frozen
class Code:
    """Reward for a program that passes its tests. A program that could not be judged is invalid, never 0.

    Args:
        path: A JSONL file, also ``.jsonl.gz``, in the format of HumanEval, of MBPP, or our own. Null generates problems.
        levels: Which generators, when there is no path: constant, linear, branch, list, text.
        size: Generated problems in all, both splits together; fewer if there are not so many.
        seed: Of the generated problems, and of the module ``random`` in programs and tests.
        template: Text of the prompt around ``{prompt}``.
        answer: ``block`` takes the last fenced block that defines what is asked for, or else the last one;
            ``completion`` the whole text, as what follows the prompt; ``auto`` a block if there is one, else the text.
        reward: ``all`` gives 1 if every test passes, else 0; ``fraction`` the share of tests that pass; ``shaped`` 0.1
            for syntax, 0.1 for a program that runs, and 0.8 times the share.
        turns: How often the policy may answer. After a program that fails it is told how, and may mend it.
        feedback: What it is told, never what was expected: ``counts`` of tests that passed, ``errors`` of its own
            program beside them, or ``inputs`` of the first test that failed with what it gave for them.
        discount: Factor on the reward for each turn beyond the first. Usual range 0.8 to 1.
        held_out: Share of the problems, chosen by a hash of their text, that is the test split.
        on_broken: ``stop`` at a line that cannot be read, or ``skip`` it and count it.
        sandbox: ``strict``, ``basic``, or ``auto`` for the better one that works here; ``none`` confines nothing.
        workers: Programs judged at a time; null takes as many as there are cores.
        python: Path of the interpreter that runs programs; null takes our own or the system's.
        seconds: For the tests of one program, or for one run that reads standard input.
        memory: MiB for a program.
    """

    path: str | None = None
    levels: tuple[str, ...] = attrs.field(default=("linear",), converter=tuple, validator=deep_iterable(in_(LEVELS)))
    size: int = attrs.field(default=10_000, validator=ge(1))
    seed: int = 0
    template: str = "{prompt}"
    answer: Literal["auto", "block", "completion"] = attrs.field(
        default="auto", validator=in_(["auto", "block", "completion"])
    )
    reward: Literal["all", "fraction", "shaped"] = attrs.field(
        default="all", validator=in_(["all", "fraction", "shaped"])
    )
    turns: int = attrs.field(default=1, validator=ge(1))
    feedback: Literal["counts", "errors", "inputs"] = attrs.field(
        default="errors", validator=in_(["counts", "errors", "inputs"])
    )
    discount: float = attrs.field(default=1.0, validator=and_(gt(0), le(1)))
    held_out: float = attrs.field(default=0.125, validator=and_(ge(0), lt(1)))
    on_broken: Literal["stop", "skip"] = attrs.field(default="stop", validator=in_(["stop", "skip"]))
    sandbox: Literal["auto", "strict", "basic", "none"] = attrs.field(
        default="auto", validator=in_(["auto", "strict", "basic", "none"])
    )
    workers: int | None = attrs.field(default=None, validator=attrs.validators.optional(ge(1)))
    python: str | None = None
    seconds: float = attrs.field(default=5.0, validator=gt(0))
    memory: int = attrs.field(default=512, validator=ge(64))

    def __attrs_post_init__(self) -> None:
        if "{prompt}" not in self.template:
            raise ValueError("template must hold {prompt}")

    @hookimpl
    def tasks(self, split: str) -> Sequence[Task]:
        """The problems of a split, ``train`` or ``test``; the same ones at each call.

        Raises:
            DataError: The file is missing, empty or broken.
        """
        from dovetail_code.problems import problems, split_of

        chosen = [problem for problem in problems(self) if split_of(problem.prompt, self.held_out) == split]
        return [problem.task(self.template, f"{split}-{row}") for row, problem in enumerate(chosen)]

    @hookimpl
    async def make(self) -> Environment:
        """A fresh episode.

        Raises:
            UserError: The sandbox's tier does not work on this machine.
        """
        import asyncio

        from dovetail_code.episode import CodeEpisode
        from dovetail_code.grading import sandbox_for

        await asyncio.to_thread(sandbox_for, self)  # the first time it tries the tiers
        return CodeEpisode(self)

    @hookimpl
    def on_run_start(self, run: object) -> None:
        """Say which sandbox is used, or stop the run because there is none."""
        import structlog

        from dovetail_code.grading import sandbox_for

        box = sandbox_for(self)
        structlog.get_logger().info("programs run in a sandbox", tier=box.tier, by=box.why)
