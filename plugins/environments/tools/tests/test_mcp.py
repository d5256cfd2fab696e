"""MCP servers as tools: real servers in processes of their own, over both ways, and what goes wrong with them."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

import dovetail as dt
from dovetail import Message, UserError
from dovetail_tools import mcp_server
from dovetail_tools.tool import ToolBroken

pytest.importorskip("mcp")
ODD = Path(__file__).with_name("odd_mcp_server.py")
COMMAND = [sys.executable, str(ODD)]


@contextlib.asynccontextmanager
async def episode(*servers, **options):
    tools = [{"use": "mcp", **server} for server in servers]
    environment = await dt.environments.tools(tools=tools, **options).instance.make()
    try:
        await environment.reset(seed=0)
        yield environment
    finally:
        await environment.close()


async def call(environment, name, /, **arguments):
    asked = dt.ToolCall("1", name, json.dumps(arguments))
    (message,) = (await environment.step(Message("assistant", "", (asked,)))).messages
    return message.meta["ok"], message.content


def played(*calls, server=None, **options):
    async def go():
        async with episode(server or {"command": COMMAND}, **options) as environment:
            return [await call(environment, name, **arguments) for name, arguments in calls]

    return asyncio.run(asyncio.wait_for(go(), 60))


@pytest.fixture(autouse=True)
def no_process_is_left():
    """Neither a server nor a zombie, whatever a test does."""
    mcp_server._reached.clear()
    yield
    until = time.monotonic() + 10
    while (left := _children()) and time.monotonic() < until:
        time.sleep(0.02)
    assert not left


def _children():
    """The servers that this process has started for episodes and not yet buried; zombies of all kinds."""
    found = {pid for file in Path("/proc/self/task").glob("*/children") for pid in file.read_text().split()}
    commands = {}
    for pid in found:
        with contextlib.suppress(OSError):
            is_zombie = ") Z " in Path(f"/proc/{pid}/stat").read_text()
            command = Path(f"/proc/{pid}/cmdline").read_text().strip("\0").split("\0")
            if is_zombie or ("mcp" in " ".join(command) and not command[-1].isdigit()):  # with a port it is a test's
                commands[pid] = command
    return commands


class Served:
    """The odd server over HTTP."""

    def __init__(self):
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}/mcp"
        self.start()

    def start(self):
        quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
        self.process = subprocess.Popen([*COMMAND, str(self.port)], **quiet)
        until = time.monotonic() + 30
        while time.monotonic() < until:
            with contextlib.suppress(OSError):
                socket.create_connection(("127.0.0.1", self.port)).close()
                return
            time.sleep(0.02)
        raise TimeoutError("the server does not start")

    def close(self):
        self.process.kill()
        self.process.wait()


@pytest.fixture(scope="module")
def served():
    server = Served()
    yield server
    server.close()


def test_a_server_of_the_package_index_works():
    """mcp-server-time, as its authors publish it; it judges the arguments itself."""
    pytest.importorskip("mcp_server_time")
    arguments = {"source_timezone": "Europe/Paris", "target_timezone": "Asia/Tokyo", "time": "12:00"}
    right, wrong, missing = played(
        ("convert_time", arguments),
        ("convert_time", {**arguments, "time": "noon"}),
        ("convert_time", {}),
        server={"command": f"{sys.executable} -m mcp_server_time --local-timezone UTC", "include": ["convert_time"]},
    )
    assert right[0]
    assert json.loads(right[1])["target"]["timezone"] == "Asia/Tokyo"
    assert (wrong[0], missing[0]) == (False, False)
    assert "noon" in wrong[1] or "time" in wrong[1].lower()
    assert "source_timezone" in missing[1]


def test_the_policy_sees_what_the_server_says_of_its_tools(served):
    """Names, words, schemas; a prefix tells two servers apart."""

    async def go():
        async with episode({"url": served.url}, {"url": served.url, "prefix": "b_", "include": ["keep"]}) as two:
            return {spec.name: spec for spec in two.tools}

    specs = asyncio.run(go())
    assert sorted(specs) == ["b_keep", "die", "draw", "flood", "hang", "keep", "refuse", "vanish", "wait"]
    assert specs["b_keep"].description == "Keep a name."
    assert specs["keep"].parameters["required"] == ["name"]


def test_whatever_a_tool_gives_becomes_text(served):
    """An error is told, a picture named, a flood cut off; a wrong argument is the server's to refuse."""
    refused, drawn, flooded, unfit, waited = played(
        ("refuse", {}), ("draw", {}), ("flood", {}), ("keep", {"name": [1]}), ("wait", {}),
        server={"url": served.url}, longest=200, timeout=8,
    )  # fmt: skip
    assert not refused[0]
    assert "refuse" in refused[1]
    assert drawn == (True, "[image, image/png]")
    assert flooded == (True, "x" * 200 + "… (999800 characters left out)")
    assert not unfit[0]
    assert "name" in unfit[1]
    assert waited == (False, "error: no answer within 8 s")


def test_a_server_that_dies_is_started_anew_and_the_policy_is_told():
    """With its last words; calls of one turn that were lost together share the new server, whose state is gone."""

    async def go():
        async with episode({"command": COMMAND}, timeout=30) as environment:
            before = [await call(environment, "keep", name="a"), await call(environment, "keep", name="b", count=2)]
            calls = tuple(dt.ToolCall(str(n), "die", "{}") for n in range(2))
            told = (await environment.step(Message("assistant", "", calls))).messages
            return before, [message.content for message in told], await call(environment, "keep", name="c")

    before, told, after = asyncio.run(go())
    assert before == [(True, "a"), (True, "a,b,b")]
    assert all("has died and was started anew; its state is gone" in each for each in told)
    assert any("out of luck" in each for each in told)
    assert after == (True, "c")


def test_a_server_that_listens_no_more_is_left_and_killed():
    """The call at its deadline, the process at the end of the episode."""
    assert played(("hang", {}), timeout=0.3) == [(False, "error: no answer within 0.3 s")]


def test_a_server_over_http_that_stays_away_makes_the_sample_invalid():
    """It is never a score; one that comes back in time is connected to again."""
    served = Served()

    async def go():
        async with episode({"url": served.url, "start": 5}) as environment:
            assert await call(environment, "keep", name="a") == (True, "a")
            served.close()
            served.start()
            ok, told = await call(environment, "keep", name="b")
            assert ok or "started anew" in told
            served.close()
            with pytest.raises(ToolBroken, match="cannot be used"):
                await call(environment, "keep", name="c")

    try:
        asyncio.run(asyncio.wait_for(go(), 60))
    finally:
        served.close()


def test_tools_that_come_and_go_are_told(served):
    """The policy was told of its tools when the episode began; the next episode sees the new list."""
    vanished, refused, late = played(("vanish", {}), ("refuse", {}), ("late", {}), server={"url": served.url})
    assert vanished == (True, "gone")
    assert not refused[0]
    assert "refuse" in refused[1]
    assert late[1].startswith("error: there is no tool 'late'")


WRONG = [
    ({"command": ["/no/such/program"]}, "No such file"),
    ({"command": [sys.executable, "-m", "no_such_module"]}, "No module named no_such_module"),
    ({"command": [sys.executable, "-c", "import time; time.sleep(99)"], "start": 0.5}, r"no answer within 0\.5 s"),
    ({"url": "http://127.0.0.1:9/mcp"}, "cannot be used"),
]


@pytest.mark.parametrize(("server", "told"), WRONG)
def test_a_server_that_is_not_there_stops_the_run(server, told):
    """Because it would be so in every episode; the message names it and says why."""
    with pytest.raises(UserError, match=told):
        played(server=server)


def test_a_server_that_lacks_what_was_asked_for_stops_the_run(served):
    """A tool, or all of what a server is."""
    with pytest.raises(UserError, match="no tool 'keeep'"):
        played(server={"url": served.url, "include": ["keeep"]})
    with pytest.raises(UserError, match="cannot be used"):
        played(server={"url": served.url.replace("/mcp", "/nothing"), "start": 5})


@pytest.mark.parametrize(
    ("options", "told"),
    [({}, "either a command or a url"), ({"command": "a", "url": "b"}, "either"), ({"comand": "a"}, "comand")],
)
def test_options_that_do_not_fit_are_told(options, told):
    """When the environment is made."""
    with pytest.raises(UserError, match=told):
        played(server={"use": "mcp", **options})


def test_without_the_package_one_is_told_what_to_install(monkeypatch):
    """When the environment is made."""
    monkeypatch.setitem(sys.modules, "mcp", None)
    with pytest.raises(UserError, match=r"pip install \"dovetail-tools\[mcp\]\""):
        played()


def test_an_episode_that_is_cancelled_leaves_no_server():
    """In the middle of a start or of a call."""

    async def go():
        starting = asyncio.ensure_future(_enter())
        await asyncio.sleep(0)
        starting.cancel()
        async with episode({"command": COMMAND}, timeout=60) as environment:
            hanging = asyncio.ensure_future(call(environment, "hang"))
            await asyncio.sleep(0.1)
            hanging.cancel()
        return os.getpid()

    async def _enter():
        async with episode({"command": COMMAND}):
            raise AssertionError("it was cancelled before")

    asyncio.run(asyncio.wait_for(go(), 60))
