"""The tools of an episode, by name."""

from __future__ import annotations

import functools
import importlib
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from dovetail import Task, ToolSpec, UserError
from dovetail.errors import did_you_mean
from dovetail_tools.tool import Outcome, Tool, tool

if TYPE_CHECKING:
    from dovetail_tools import Tools


class Toolbox:
    """The tools of one episode: functions, and kits that hold something of the episode's own.

    Raises:
        UserError: A tool is unknown, or cannot be made of what was given.
    """

    def __init__(self, options: Tools) -> None:
        self._kits: list[Any] = []
        self._tools: dict[str, Tool] = {}
        for wanted in options.tools:
            self._add(wanted, options)

    def _add(self, wanted: Any, options: Tools) -> None:
        limits = {"timeout": options.timeout, "longest": options.longest}
        if wanted in ("files",):
            from dovetail_tools.files import Files

            kit = Files()
            self._kits.append(kit)
            made = [tool(function, **limits) for function in kit.functions()]
        elif isinstance(wanted, Tool):
            made = [wanted]
        else:
            made = [tool(_function(wanted, options), **limits)]
        for each in made:
            if each.name in self._tools:
                raise UserError(f"two tools are called {each.name!r}", hint="give one of the functions another name")
            self._tools[each.name] = each

    @property
    def specs(self) -> Sequence[ToolSpec]:
        return tuple(each.spec for each in self._tools.values())

    async def open(self, task: Task) -> None:
        """Begin an episode."""
        for kit in self._kits:
            kit.open(task.columns.get("files", {}))

    async def call(self, name: str, arguments: str) -> Outcome:
        """Call a tool; without a name the only one that there is."""
        known = self._tools
        if not name and len(known) == 1:
            name = next(iter(known))
        if name not in known:
            return Outcome(f"error: there is no tool {name!r}; {did_you_mean(name, known)}", ok=False)
        return await known[name].call(arguments)

    async def close(self) -> None:
        """Give back what the kits hold."""
        for kit in self._kits:
            kit.close()


def _function(wanted: Any, options: Tools) -> Callable[..., Any]:
    if callable(wanted):
        return wanted  # type: ignore[no-any-return]
    if wanted in _BUILT_IN:
        return _BUILT_IN[wanted](options)
    module, colon, name = str(wanted).partition(":")
    if not colon:
        known = [*_BUILT_IN, "files"]
        raise UserError(
            f"no tool is called {wanted!r}", hint=f"{did_you_mean(wanted, known)}; or write module:function"
        )
    try:
        function = functools.reduce(getattr, name.split("."), importlib.import_module(module))
    except (ImportError, AttributeError) as error:
        raise UserError(f"the tool {wanted!r} cannot be imported: {error}", hint="module:function") from error
    return function  # type: ignore[no-any-return]


def _calculator(options: Tools) -> Callable[..., Any]:
    from dovetail_tools.calculator import evaluate

    most = options.operations

    async def calculator(expression: str) -> str:  # bounded in time, so it needs no thread
        """Compute an arithmetic expression.

        Args:
            expression: Such as ``(12 + 7) * 3``.
        """
        return evaluate(expression, most)

    return calculator


def _search(options: Tools) -> Callable[..., Any]:
    from dovetail_tools.search import shared_index

    assert options.corpus is not None
    index = shared_index(options.corpus)

    async def search(query: str, limit: int = 3) -> str:
        """Find texts that share words with a query.

        Args:
            query: Words to look for.
            limit: Most texts to return.
        """
        return index.find(query, limit)

    return search


_BUILT_IN: Mapping[str, Callable[[Tools], Callable[..., Any]]] = {"calculator": _calculator, "search": _search}
