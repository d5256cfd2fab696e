"""Search by a service: real servers on this machine, good ones and bad ones."""

from __future__ import annotations

import asyncio
import contextlib
import http.server
import json
import socket
import threading
import urllib.parse

import pytest

import dovetail as dt


@contextlib.contextmanager
def serving(answer):
    """A server that answers each request with ``answer(method, path, body)``: a status and bytes."""
    asked = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def _answer(self):
            body = self.rfile.read(int(self.headers.get("content-length", 0)))
            asked.append((self.command, self.path, body))
            status, data = answer(self.command, self.path, body)
            self.send_response(status)
            self.send_header("location", "/elsewhere")
            self.end_headers()
            with contextlib.suppress(OSError):
                self.wfile.write(data)

        do_GET = do_POST = _answer

        def log_message(self, *_):
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}", asked
        server.shutdown()


def search(url, query="cats & dogs", limit=2, **options):
    async def go():
        environment = await dt.environments.tools(tools=["search"], corpus=url, **options).instance.make()
        await environment.reset(seed=0)
        try:
            return await environment._toolbox.call("search", json.dumps({"query": query, "limit": limit}))
        finally:
            await environment.close()

    return asyncio.run(go())


PAGES = [{"title": f"t{n}", "url": "http://x", "content": f"text {n}"} for n in range(4)]
SHAPES = [
    {"results": PAGES},
    {"query": "q", "organic": [{"title": p["title"], "snippet": p["content"]} for p in PAGES]},
    {"result": [[{"document": {"title": p["title"], "text": p["content"]}, "score": 0.5} for p in PAGES]]},
    {"result": [[{"id": "1", "contents": f"{p['title']}\n{p['content']}"} for p in PAGES]]},
    [f"{p['title']}\n{p['content']}" for p in PAGES],
]


@pytest.mark.parametrize("shape", SHAPES, ids=["searxng", "organic", "search-r1 with scores", "search-r1", "texts"])
def test_answers_of_the_usual_shapes_are_read(shape):
    """At most as many texts as were asked for."""
    with serving(lambda *_: (200, json.dumps(shape).encode())) as (url, _):
        outcome = search(f"{url}/search?q={{query}}&n={{limit}}")
    assert (outcome.ok, outcome.text) == (True, "t0\ntext 0\n\nt1\ntext 1")


def test_a_query_stands_in_the_url_or_is_posted():
    """Whatever characters it has."""
    with serving(lambda *_: (200, b'{"results": []}')) as (url, asked):
        assert search(f"{url}/s?q={{query}}&n={{limit}}", "a&b=ü \ud800", 7).text == "nothing found"
        search(f"{url}/retrieve", "a&b", 7)
    (got, path, _), (posted, _, body) = asked
    assert got == "GET"
    assert urllib.parse.parse_qs(urllib.parse.urlsplit(path).query) == {"q": ["a&b=ü ?"], "n": ["7"]}
    assert (posted, json.loads(body)) == ("POST", {"queries": ["a&b"], "topk": 7})


BAD = [
    (500, b"{}", "answered 500 Internal Server Error"),
    (302, b"", "answered 302"),
    (200, b"<html>", "is no JSON"),
    (200, b"\xff\xfe\x00", "is no JSON"),
    (200, b"[" * 100_000, "is no JSON"),
    (200, b'{"error": "no"}', "no list of texts"),
    (200, b'"text"', "no list of texts"),
    (200, b'["' + b"x" * (1 << 20) + b'"]', "more than 1048576 bytes"),
]


@pytest.mark.parametrize(("status", "data", "told"), BAD)
def test_an_answer_that_is_none_is_told(status, data, told):
    """Nothing is guessed, nothing too large is held."""
    with serving(lambda *_: (status, data)) as (url, _):
        outcome = search(url)
    assert not outcome.ok
    assert told in outcome.text


def test_a_service_that_is_silent_or_gone_is_told():
    """One that sends a byte now and then does not get around the deadline."""
    stop = threading.Event()

    def drip(listener):
        with contextlib.suppress(OSError):
            while True:
                peer, _ = listener.accept()
                with contextlib.suppress(OSError):
                    peer.sendall(b"HTTP/1.1 200 OK\r\n\r\n")
                    while not stop.wait(0.02):
                        peer.sendall(b" ")

    with socket.create_server(("127.0.0.1", 0)) as silent, socket.create_server(("127.0.0.1", 0)) as slow:
        threading.Thread(target=drip, args=(slow,), daemon=True).start()
        for server in (silent, slow):
            outcome = search(f"http://127.0.0.1:{server.getsockname()[1]}", timeout=0.3)
            assert (outcome.ok, outcome.text) == (False, "error: no answer within 0.3 s")
        stop.set()
        gone = silent.getsockname()[1]
    outcome = search(f"http://127.0.0.1:{gone}")
    assert not outcome.ok
    assert "cannot be asked" in outcome.text


def test_a_limit_that_makes_no_sense_is_told():
    """The service is not asked."""
    with serving(lambda *_: (200, b"[]")) as (url, asked):
        assert "limit must lie between 1 and 20" in search(url, limit=0).text
    assert not asked
