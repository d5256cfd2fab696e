"""The tools of an episode, by name."""

from __future__ import annotations

import asyncio
import functools
import importlib
import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from dovetail import Task, ToolSpec, UserError
from dovetail.errors import did_you_mean
from dovetail_tools.kit import Kit
from dovetail_tools.tool import Outcome, Tool, tool

if TYPE_CHECKING:
    from dovetail_tools import Tools


class Toolbox:
    """The tools of one episode: functions, and kits that hold something of the episode's own.

    Raises:
        UserError: A tool is unknown, or cannot be made of what was given.
    """

    def __init__(self, options: Tools) -> None:
        self._limits = {"timeout": options.timeout, "longest": options.longest}
        self._kits: list[Kit] = []
        self._fixed: dict[str, Tool] = {}
        for wanted in options.tools:
            made = _made(wanted, options)
            if isinstance(made, Kit):
                self._kits.append(made)
            else:
                self._add(self._fixed, made)
        self._tools = dict(self._fixed)

    def _add(self, tools: dict[str, Tool], found: Callable[..., Any] | Tool) -> None:
        try:
            made = found if isinstance(found, Tool) else tool(found, **self._limits)
        except TypeError as error:
            raise UserError(str(error), hint="a tool is a function whose parameters have types") from error
        if made.name in tools:
            raise UserError(f"two tools are called {made.name!r}", hint="give one of them another name")
        tools[made.name] = made

    @property
    def specs(self) -> Sequence[ToolSpec]:
        """What the policy is told; the tools of kits are known when they are open."""
        return tuple(each.spec for each in self._tools.values())

    async def open(self, task: Task) -> None:
        """Begin an episode.

        Raises:
            UserError: Two tools have the same name, or a kit cannot work on this machine.
        """
        await self.close()
        tools = dict(self._fixed)
        for kit in self._kits:
            for found in await kit.open(task):
                self._add(tools, found)
        self._tools = tools

    async def call(self, name: str, arguments: str) -> Outcome:
        """Call a tool; without a name the only one that there is."""
        known = self._tools
        if not name and len(known) == 1:
            name = next(iter(known))
        if name not in known:
            return Outcome(f"error: there is no tool {name!r}; {did_you_mean(name, known)}", ok=False)
        return await known[name].call(arguments)

    async def close(self) -> None:
        """Give back what the kits hold; one that fails keeps no other from it."""
        failed = await asyncio.gather(*(kit.close() for kit in self._kits), return_exceptions=True)
        for error in filter(None, failed):
            raise error


def _made(wanted: Any, options: Tools) -> Any:
    """A function, a Tool, or a kit of the episode's own."""
    given: Mapping[str, Any] = {}
    if isinstance(wanted, Mapping):
        given = {name: value for name, value in wanted.items() if name != "use"}
        if "use" not in wanted:
            raise UserError(f"a tool with options needs `use`, and has {', '.join(wanted)}")
        wanted = wanted["use"]
    if isinstance(wanted, str) and wanted in _BUILT_IN:
        make = functools.partial(_BUILT_IN[wanted], options)
    else:
        make = _imported(wanted) if isinstance(wanted, str) else wanted
        if isinstance(make, Kit) and not inspect.isclass(make):
            raise UserError(f"the tool {wanted!r} is one kit for all episodes", hint="give its class instead")
        if not inspect.isclass(getattr(make, "func", make)):  # a class, or a partial of one, makes a kit
            if given:
                raise UserError(f"the tool {wanted!r} takes no options, and was given {', '.join(given)}")
            return make
    try:
        return make(**given)
    except (TypeError, ValueError) as error:
        raise UserError(f"the tool {wanted!r}: {error}") from error


def _imported(name: str) -> Any:
    module, colon, attribute = name.partition(":")
    if not colon:
        raise UserError(
            f"no tool is called {name!r}", hint=f"{did_you_mean(name, _BUILT_IN)}; or write module:function"
        )
    try:
        return functools.reduce(getattr, attribute.split("."), importlib.import_module(module))
    except (ImportError, AttributeError) as error:
        raise UserError(f"the tool {name!r} cannot be imported: {error}", hint="module:function") from error


def _calculator(options: Tools) -> Any:
    from dovetail_tools.calculator import evaluate

    most = options.operations

    async def calculator(expression: str) -> str:  # bounded in time, so it needs no thread
        """Compute an arithmetic expression.

        Args:
            expression: Such as ``(12 + 7) * 3``.
        """
        return evaluate(expression, most)

    return calculator


def _search(options: Tools) -> Any:
    if options.corpus is None:
        raise ValueError("it needs a corpus")
    if options.corpus.startswith(("http://", "https://")):
        from dovetail_tools.web_search import WebSearch

        return WebSearch(options.corpus)
    from dovetail_tools.search import shared_index

    index = shared_index(options.corpus)

    async def search(query: str, limit: int = 3) -> str:
        """Find texts that share words with a query.

        Args:
            query: Words to look for.
            limit: Most texts to return.
        """
        return index.find(query, limit)

    return search


def _files(options: Tools) -> Any:
    from dovetail_tools.files import Files

    return Files()


def _python(options: Tools) -> Any:
    from dovetail_tools.repl import Python

    return Python(options.sandbox, options.timeout, options.memory, options.longest)


def _mcp(options: Tools, **given: Any) -> Any:
    from dovetail_tools.mcp_server import Server

    return Server(**given, timeout=options.timeout, longest=options.longest)


_BUILT_IN: Mapping[str, Callable[..., Any]] = {
    "calculator": _calculator,
    "files": _files,
    "mcp": _mcp,
    "python": _python,
    "search": _search,
}
