"""Python for the policy: a confined session of the episode's own."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal

from dovetail import Task, ToolSpec, UserError
from dovetail_tools.tool import Tool, ToolBroken, ToolError

if TYPE_CHECKING:
    from dovetail_sandbox import Result, Session
    from dovetail_tools import Tools

Tier = Literal["auto", "strict", "basic", "none"]
_LEAST_OUTPUT = 65_536  # bytes that a piece may write before it is killed, however little of it is shown
_SPEC = ToolSpec(
    "python",
    "Run Python code. Names last from one call to the next. What it prints is shown, and the value of a last expression.",
    {
        "type": "object",
        "properties": {"code": {"type": "string", "description": "Such as ``x = 6`` or ``x * 7``."}},
        "required": ["code"],
    },
)


class Python:
    """A Python whose names last as long as the episode.

    The sandbox ends a piece of code that takes too long, writes too much or needs too much memory; the policy is told,
    and the next piece begins a new session, without the names.

    Args:
        tier: As of the sandbox.
        seconds: For one piece of code, from its start.
        memory: MiB.
        longest: Characters that are shown of a result.

    Raises:
        UserError: dovetail-sandbox is not installed.
    """

    def __init__(self, tier: Tier, seconds: float, memory: int, longest: int) -> None:
        _require()
        from dovetail_sandbox import Limits

        self._tier, self._longest = tier, longest
        self._limits = Limits(seconds=seconds, memory=memory, output=max(_LEAST_OUTPUT, 4 * longest))
        self._session: Session | None = None

    async def open(self, task: Task) -> Sequence[Tool]:
        """The tool; its process starts with the first piece of code.

        Raises:
            UserError: The tier does not work on this machine.
        """
        from dovetail_sandbox import shared

        box = await asyncio.to_thread(shared, self._tier)  # the first time it tries the tiers
        self._session = box.session(limits=self._limits)
        # Pieces of many episodes wait for a worker of the sandbox; what counts is the time since their start.
        return (Tool(self._run, _SPEC, timeout=None, longest=self._longest, hints={"code": str}),)

    async def _run(self, code: str) -> str:
        assert self._session is not None
        return _shown(await self._session.execute_async(code))

    async def close(self) -> None:
        """End the process."""
        session, self._session = self._session, None
        if session is not None:
            await asyncio.to_thread(session.close)


def announce(options: Tools) -> None:
    """Say in which tier code will run.

    Raises:
        UserError: dovetail-sandbox is not installed, or the tier does not work on this machine.
    """
    import structlog

    _require()
    from dovetail_sandbox import shared

    box = shared(options.sandbox)
    structlog.get_logger().info("the tool python runs in a sandbox", tier=box.tier, by=box.why)


def _require() -> None:
    try:
        import dovetail_sandbox  # noqa: F401
    except ModuleNotFoundError as error:
        hint = 'pip install "dovetail-tools[python]"'
        raise UserError("the tool 'python' needs dovetail-sandbox", hint=hint) from error


def _shown(result: Result) -> str:
    """What was written. What went wrong comes first, so that a flood before it does not hide it."""
    written, problem = result.stdout.strip("\n"), result.stderr.strip("\n")
    if result.status == "sandbox_error":
        raise ToolBroken(f"the sandbox failed: {result.reason}")
    if result.status == "ok":
        return "\n".join(filter(None, (written, problem)))
    told = [text for text in (result.reason, problem) if text] or [str(result.status)]
    raise ToolError("\n".join([*told, *(["It had written:", written] if written else [])]))
