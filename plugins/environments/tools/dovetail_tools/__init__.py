"""Tasks that are solved with tools, in as many turns as they take."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import attrs
from attrs.validators import and_, ge, gt, in_, le, lt

from dovetail import Environment, Task, hookimpl

LEVELS = ("one_step", "two_step")


@attrs.frozen
class Tools:
    """Reward 1 for the right final answer; the policy may call tools before it gives one.

    A turn with tool calls is answered with their results, a turn without is the final answer. A malformed call, an
    unknown tool or a failing one is answered with what went wrong, so that the policy can mend it.

    Args:
        tools: What may be called: ``calculator``, ``files`` (a folder of the episode's own), ``python`` (a session of the
            episode's own, confined), ``search`` (over ``corpus``), the tools of an MCP server, ``{use: mcp, command: …}``
            or ``{use: mcp, url: …}``, the import path of a typed function or of a class of kits, ``module:name``; in
            Python also the function or class itself.
        path: A JSONL file with ``question`` and ``answer``, and if wanted ``steps`` (results on the way) and ``files``
            (name to text). Null generates calculations.
        levels: Which calculations: ``one_step``, ``two_step``.
        digits: Of the numbers in generated calculations. Usual range 1 to 4.
        size: Generated tasks in all, both splits together; fewer if there are not so many.
        seed: Of the generated tasks.
        held_out: Share of the tasks, chosen by a hash of their text, that is the test split.
        template: Text of the prompt around ``{question}``.
        call_format: How the policy writes a call: ``hermes`` (Qwen and others), ``llama``, ``json`` (a fenced block), or
            ``terse`` (``[12+7]``, ``[name argument]``) for tiny models.
        instructions: Where the policy is told of the tools: by the chat ``template``, in a ``system`` message, or
            ``none``.
        result: Text of a tool's message around ``{result}``.
        max_turns: Turns after which an episode is cut off.
        max_calls: Calls of one turn that are carried out.
        step_reward: For each of the task's ``steps`` that a tool's result gives first. Usual range 0 to 0.5.
        final_answer: ``last_number`` of the last turn, or the ``whole`` turn.
        operations: Most operations in one call of the calculator; 0 sets no limit.
        corpus: For ``search``: a JSONL file with ``text``, and if wanted ``title``; or the URL of a search service.
        sandbox: Of ``python``: ``strict``, ``basic``, or ``auto`` for the better one that works here; ``none`` confines
            nothing.
        memory: MiB for ``python``.
        timeout: Seconds for one call of a tool.
        longest: Characters of a tool's result; what is more is cut off.
    """

    tools: tuple[Any, ...] = attrs.field(default=("calculator",), converter=tuple)
    path: str | None = None
    levels: tuple[str, ...] = attrs.field(default=("two_step",), converter=tuple)
    digits: int = attrs.field(default=2, validator=and_(ge(1), le(6)))
    size: int = attrs.field(default=10_000, validator=ge(1))
    seed: int = 0
    held_out: float = attrs.field(default=0.125, validator=and_(ge(0), lt(1)))
    template: str = "{question}"
    call_format: Literal["hermes", "llama", "json", "terse"] = attrs.field(
        default="hermes", validator=in_(["hermes", "llama", "json", "terse"])
    )
    instructions: Literal["template", "system", "none"] = attrs.field(
        default="template", validator=in_(["template", "system", "none"])
    )
    result: str = "{result}"
    max_turns: int = attrs.field(default=8, validator=ge(1))
    max_calls: int = attrs.field(default=8, validator=ge(1))
    step_reward: float = 0.0
    final_answer: Literal["last_number", "whole"] = attrs.field(
        default="last_number", validator=in_(["last_number", "whole"])
    )
    operations: int = attrs.field(default=0, validator=ge(0))
    corpus: str | None = None
    sandbox: Literal["auto", "strict", "basic", "none"] = attrs.field(
        default="auto", validator=in_(["auto", "strict", "basic", "none"])
    )
    memory: int = attrs.field(default=512, validator=ge(64))
    timeout: float = attrs.field(default=10.0, validator=gt(0))
    longest: int = attrs.field(default=4096, validator=ge(1))

    traits = ("multi_turn",)

    def __attrs_post_init__(self) -> None:
        for option, place in (("template", "{question}"), ("result", "{result}")):
            if place not in getattr(self, option):
                raise ValueError(f"{option} must hold {place}")
        for level in self.levels:
            if level not in LEVELS:
                raise ValueError(f"no level is called {level!r}; known: {', '.join(LEVELS)}")
        if "search" in self.tools and self.corpus is None:
            raise ValueError("the tool 'search' needs a corpus")

    @hookimpl
    def tasks(self, split: str) -> Sequence[Task]:
        """The tasks of a split, ``train`` or ``test``; the same ones at each call.

        Raises:
            DataError: The file is missing, empty or broken.
        """
        from dovetail_tools.tasks import problems, split_of

        chosen = [p for p in problems(self) if split_of(p.question, self.held_out) == split]
        return [problem.task(self.template, f"{split}-{row}") for row, problem in enumerate(chosen)]

    @hookimpl
    async def make(self) -> Environment:
        """A fresh episode.

        Raises:
            UserError: A tool is unknown, or cannot be made of what was given.
        """
        from dovetail_tools.episode import ToolEpisode
        from dovetail_tools.toolbox import Toolbox

        return ToolEpisode(self, Toolbox(self))

    @hookimpl
    def on_run_start(self, run: object) -> None:
        """Say which sandbox ``python`` uses, or stop the run because there is none."""
        if "python" in self.tools or {"use": "python"} in self.tools:
            from dovetail_tools.repl import announce

            announce(self)
