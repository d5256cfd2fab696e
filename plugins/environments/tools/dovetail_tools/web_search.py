"""Search by a service that is asked over HTTP."""

from __future__ import annotations

import functools
import json
import urllib.parse
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from dovetail import Task
from dovetail_tools.search import MOST, shown
from dovetail_tools.tool import ToolError

_LARGEST = 1 << 20  # bytes of an answer
_LISTS = ("results", "result", "documents", "hits", "items", "data", "organic")
_TITLES = ("title", "name")
_TEXTS = ("text", "contents", "content", "snippet", "description")


class WebSearch:
    """A search service. It is asked with GET if its URL has the place ``{query}``, else with POST.

    What is posted is what the retrieval servers of Search-R1 read, ``{"queries": [query], "topk": limit}``. The answer
    is JSON: a list of texts or of objects with a text and if wanted a title, by itself or under ``results`` or the like,
    as SearXNG and most others give it, or a list of such lists, one for each query, as Search-R1 does.

    Args:
        url: ``http://…`` or ``https://…``; ``{query}`` and ``{limit}`` are filled in.
    """

    def __init__(self, url: str) -> None:
        self._url = url
        self._client: Any = None

    async def open(self, task: Task) -> Sequence[Callable[..., Any]]:
        """Make the client; it connects when it is asked."""
        import httpx

        # The deadline of the call is the one that counts: it stops a server that sends a byte now and then, too.
        self._client = httpx.AsyncClient(verify=_context(), timeout=None, headers={"accept": "application/json"})
        return (self.search,)

    async def close(self) -> None:
        """Hang up."""
        client, self._client = self._client, None
        if client is not None:
            await client.aclose()

    async def search(self, query: str, limit: int = 3) -> str:
        """Find texts about a query.

        Args:
            query: What to look for.
            limit: Most texts to return.
        """
        if not 1 <= limit <= MOST:
            raise ToolError(f"limit must lie between 1 and {MOST}")
        found = _documents(await self._asked(query, limit))
        return "\n\n".join(shown(title, text) for title, text in list(found)[:limit]) or "nothing found"

    async def _asked(self, query: str, limit: int) -> Any:
        import httpx

        try:
            async with self._client.stream(**self._request(query, limit)) as response:
                if response.status_code != 200:
                    raise ToolError(f"the search service answered {response.status_code} {response.reason_phrase}")
                answer = bytearray()
                async for piece in response.aiter_bytes():
                    answer += piece
                    if len(answer) > _LARGEST:
                        raise ToolError(f"the search service's answer has more than {_LARGEST} bytes")
        except httpx.HTTPError as error:
            raise ToolError(f"the search service cannot be asked: {str(error) or type(error).__name__}") from None
        try:
            return json.loads(bytes(answer))
        except (ValueError, RecursionError):
            raise ToolError("the search service's answer is no JSON") from None

    def _request(self, query: str, limit: int) -> dict[str, Any]:
        if "{query}" not in self._url:
            return {"method": "POST", "url": self._url, "json": {"queries": [query], "topk": limit}}
        # A lone half of a surrogate pair has no UTF-8.
        quoted = urllib.parse.quote(query.encode("utf-8", "replace"), safe="")
        return {"method": "GET", "url": self._url.replace("{query}", quoted).replace("{limit}", str(limit))}


def _documents(answer: Any) -> Iterator[tuple[str, str]]:
    """Titles and texts in an answer; a ToolError if there is nothing that looks like a list of them."""
    if isinstance(answer, dict):
        answer = next((answer[name] for name in _LISTS if isinstance(answer.get(name), list)), None)
    if not isinstance(answer, list):
        raise ToolError(f"the search service's answer has no list of texts under {', '.join(_LISTS)}")
    if len(answer) == 1 and isinstance(answer[0], list):  # one list for each query
        answer = answer[0]
    for each in answer:
        if isinstance(each, dict) and isinstance(each.get("document"), dict | str):  # beside its score
            each = each["document"]
        yield ("", each) if isinstance(each, str) else (_word(each, _TITLES), _word(each, _TEXTS))


def _word(document: Any, names: Sequence[str]) -> str:
    if not isinstance(document, dict):
        return ""
    return next((document[name] for name in names if isinstance(document.get(name), str)), "")


@functools.cache
def _context() -> Any:
    """The certificates, which take long to read."""
    import httpx

    return httpx.create_ssl_context()
