"""Tools of an MCP server, which is started for each episode or reached over HTTP."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import shlex
import tempfile
from collections.abc import AsyncIterator, Mapping, Sequence
from typing import IO, TYPE_CHECKING, Any

from dovetail import Task, ToolSpec, UserError
from dovetail_tools.tool import Tool, ToolBroken, ToolError

if TYPE_CHECKING:
    from mcp import Client

_MOST_PAGES = 100  # of a server's list of tools
_SHOWN_ERRORS = 1000  # bytes of what a server wrote before it died
_LEAVE_SECONDS = 3.0  # for a server to say goodbye; then it is left, or killed
_FORGOTTEN = "Session terminated"  # what the SDK says of a server over HTTP that was started anew
_reached: set[str] = set()  # servers that have answered this process before


class Server:
    """The tools of one MCP server, for one episode.

    A server that dies is started anew, or connected to again, and the policy is told that its state is gone. If that
    does not help, the sample is invalid.

    Args:
        command: What starts a server that talks over its standard input and output: a list, or a text with blanks
            between its words. Each episode has a process of its own.
        url: Of a server that is already there (streamable HTTP). Each episode has a session of its own.
        env: Environment variables for the command; beside them it has few of ours, such as PATH.
        key_variable: The environment variable that holds the bearer token of a server at ``url``.
        include: Names of the tools that are offered; by default all of them.
        prefix: Put before the names of the tools, where two servers have the same ones.
        start: Seconds until the server must be there.
        timeout: Seconds for one call.
        longest: Characters of a result.

    Raises:
        UserError: The package ``mcp`` is missing, or the options do not fit.
    """

    def __init__(
        self,
        *,
        command: str | Sequence[str] = (),
        url: str = "",
        env: Mapping[str, str] | None = None,
        key_variable: str = "",
        include: Sequence[str] = (),
        prefix: str = "",
        start: float = 30.0,
        timeout: float = 10.0,
        longest: int = 4096,
    ) -> None:
        if bool(command) == bool(url):
            raise ValueError("it needs either a command or a url")
        try:
            import mcp  # noqa: F401
        except ModuleNotFoundError as error:
            raise UserError("MCP servers need the package mcp", hint='pip install "dovetail-tools[mcp]"') from error
        self._command = tuple(shlex.split(command) if isinstance(command, str) else command)
        self._url, self._env, self._key_variable = url, dict(env or {}), key_variable
        self._include, self._prefix = tuple(include), prefix
        self._start, self._timeout, self._longest = start, timeout, longest
        self._connection: _Connection | None = None
        self._lock = asyncio.Lock()

    @property
    def _name(self) -> str:
        return self._url or shlex.join(self._command)

    async def open(self, task: Task) -> Sequence[Tool]:
        """Start the server and ask for its tools, which stay the same for the episode.

        Raises:
            UserError: It has never been there, or lacks a tool of ``include``.
            ToolBroken: It was there before.
        """
        self._connection = await self._connected()
        found = self._connection.tools
        missing = sorted(set(self._include) - {each.name for each in found})
        if missing:
            known = ", ".join(each.name for each in found)
            raise UserError(f"the MCP server {self._name} has no tool {missing[0]!r}", hint=f"it has {known}")
        return [self._tool(each) for each in found if not self._include or each.name in self._include]

    def _tool(self, told: Any) -> Tool:
        async def call(**given: Any) -> str:
            return await self._call(told.name, given)

        spec = ToolSpec(self._prefix + told.name, told.description or "", told.input_schema)
        return Tool(call, spec, timeout=self._timeout, longest=self._longest)

    async def _call(self, name: str, given: Mapping[str, Any]) -> str:
        connection = self._connection
        if connection is None:
            raise ToolError("the episode is over")
        try:
            return _shown(await connection.call(name, given))
        except ConnectionError as error:
            problem = connection.told(str(error))
        await self._again(connection, problem)
        raise ToolError(f"the MCP server has died and was started anew; its state is gone ({problem})")

    async def _again(self, lost: _Connection, problem: str) -> None:
        """A new connection instead of a lost one; calls that were lost with it share it."""
        async with self._lock:
            if self._connection is lost:
                await lost.close()
                try:
                    self._connection = await self._connected()
                except ToolBroken as error:
                    raise ToolBroken(f"{error}; it had died before: {problem}") from error

    async def _connected(self) -> _Connection:
        connection = _Connection(self)
        try:
            await asyncio.wait_for(connection.open(), self._start)
        except asyncio.CancelledError:
            connection.abandon()
            raise
        except TimeoutError:
            problem = f"no answer within {self._start:g} s"
        except Exception as error:  # whatever its transport raises, and groups of it
            problem = _cause(error)
        else:
            _reached.add(self._name)
            return connection
        problem = connection.told(f"the MCP server {self._name} cannot be used: {problem}")
        await connection.close()
        if self._name in _reached:
            raise ToolBroken(problem)
        raise UserError(problem, hint="try its command by hand" if self._command else "is it running there?")

    @contextlib.asynccontextmanager
    async def transport(self, errors: IO[str]) -> AsyncIterator[Any]:
        """Its streams."""
        from mcp import StdioServerParameters
        from mcp.client.stdio import stdio_client
        from mcp.client.streamable_http import streamable_http_client

        if self._command:
            command, *arguments = self._command
            started = StdioServerParameters(command=command, args=arguments, env=self._env)
            async with stdio_client(started, errors) as streams:
                yield streams
            return
        import httpx2

        key = os.environ.get(self._key_variable) if self._key_variable else None
        headers = {"authorization": f"Bearer {key}"} if key else {}
        # A server may hold a stream open and say nothing; the deadline of a call is kept by the tool.
        limits = httpx2.Timeout(self._start, read=None)
        async with (
            httpx2.AsyncClient(headers=headers, timeout=limits) as http,
            streamable_http_client(self._url, http_client=http) as streams,
        ):
            yield streams

    async def close(self) -> None:
        """End the process, or the session."""
        connection, self._connection = self._connection, None
        if connection is not None:
            await connection.close()


class _Connection:
    """A client in a task of its own, because it must be left in the task that entered it, and episodes have many."""

    def __init__(self, server: Server) -> None:
        self._server = server
        self._errors = tempfile.TemporaryFile("w+", prefix="dovetail-mcp-")  # noqa: SIM115, it lasts as long as we do
        self._leave = asyncio.Event()
        self._ready: asyncio.Future[None] | None = None
        self._keeper: asyncio.Task[None] | None = None
        self.client: Client
        self.tools: Sequence[Any] = ()

    async def open(self) -> None:
        """Until it is there and has told its tools. Raises whatever keeps it from that."""
        self._ready = asyncio.get_running_loop().create_future()
        self._keeper = asyncio.create_task(self._keep(self._ready))
        await asyncio.wait({self._keeper, self._ready}, return_when=asyncio.FIRST_COMPLETED)
        if not self._ready.done():
            await self._keeper
            raise ConnectionError("it has hung up")
        self._ready.result()

    async def _keep(self, ready: asyncio.Future[None]) -> None:
        from mcp import Client

        async with Client(self._server.transport(self._errors), cache=None) as self.client:
            self.tools = await self._listed()
            if not ready.done():
                ready.set_result(None)
            await self._leave.wait()

    async def _listed(self) -> list[Any]:
        found, cursor = [], None
        for _ in range(_MOST_PAGES):
            page = await self.client.list_tools(cursor=cursor)
            found += page.tools
            cursor = page.next_cursor
            if cursor is None:
                return found
        raise ValueError(f"its list of tools has more than {_MOST_PAGES} pages")

    async def call(self, name: str, given: Mapping[str, Any]) -> Any:
        """The result of a tool.

        Raises:
            ToolError: The server refuses.
            ConnectionError: It is gone.
        """
        from mcp import MCPError
        from mcp_types import CONNECTION_CLOSED

        if self._keeper is None or self._keeper.done() or self._leave.is_set():
            raise ConnectionError("it did not come back in time")
        asking = asyncio.ensure_future(self.client.call_tool(name, dict(given)))
        try:
            await asyncio.wait({asking, self._keeper}, return_when=asyncio.FIRST_COMPLETED)
            if not asking.done():
                raise ConnectionError("the connection was lost")
            return asking.result()
        except MCPError as error:
            words = error.error.message
            if error.error.code == CONNECTION_CLOSED or words == _FORGOTTEN:
                raise ConnectionError(words) from error
            raise ToolError(words) from None
        finally:
            asking.cancel()

    def told(self, problem: str) -> str:
        """A problem, and the end of what the server wrote to its standard error."""
        words = b""
        if not self._errors.closed:
            size = os.fstat(self._errors.fileno()).st_size
            words = os.pread(self._errors.fileno(), _SHOWN_ERRORS, max(0, size - _SHOWN_ERRORS)).strip()
        return problem + (f"; it wrote: {words.decode(errors='replace')}" if words else "")

    def abandon(self) -> None:
        """Leave without waiting; the client still gets rid of its process."""
        self._leave.set()
        if self._keeper is not None:
            self._keeper.cancel()

    async def close(self) -> None:
        """Leave; the client waits a little for the process to end by itself, then kills it."""
        self._leave.set()
        if self._keeper is not None:
            if self._ready is None or not self._ready.done():
                self._keeper.cancel()  # it is still on its way in
            await asyncio.wait({self._keeper}, timeout=_LEAVE_SECONDS)
            self.abandon()
            await asyncio.wait({self._keeper}, timeout=2 * _LEAVE_SECONDS)
            if self._keeper.done() and not self._keeper.cancelled():
                self._keeper.exception()  # whatever it said on its way out, it is gone
        self._errors.close()


def _shown(result: Any) -> str:
    """The texts of a result; what is no text is named."""
    texts = [_text(block) for block in result.content]
    if not texts and result.structured_content is not None:
        texts = [json.dumps(result.structured_content, ensure_ascii=False)]
    if result.is_error:
        raise ToolError("\n".join(texts) or "the tool failed and does not say why")
    return "\n".join(texts)


def _text(block: Any) -> str:
    if block.type == "text":
        return str(block.text)
    if block.type == "resource" and hasattr(block.resource, "text"):
        return str(block.resource.text)
    kind = getattr(block, "mime_type", None) or getattr(getattr(block, "resource", None), "mime_type", None)
    where = getattr(block, "uri", None)
    return f"[{block.type}{f', {kind}' if kind else ''}{f', {where}' if where else ''}]"


def _cause(error: BaseException) -> str:
    """The words of the innermost of a group of errors."""
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
