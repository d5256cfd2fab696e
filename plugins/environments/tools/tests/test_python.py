"""Python as a tool: names that last, and whatever a piece of code does is told."""

from __future__ import annotations

import asyncio
import json
import sys

import pytest
import structlog

import dovetail as dt
from dovetail import Message, UserError
from dovetail_tools.tool import ToolBroken


def said(*pieces, **options):
    """What the tool answers to pieces of code, one turn after the other."""
    pytest.importorskip("dovetail_sandbox")
    return asyncio.run(_said(pieces, options))


async def _said(pieces, options):
    environment = await dt.environments.tools(tools=["python"], **options).instance.make()
    await environment.reset(seed=0)
    try:
        told = []
        for piece in pieces:
            call = dt.ToolCall("1", "python", json.dumps({"code": piece}))
            (message,) = (await environment.step(Message("assistant", "", (call,)))).messages
            told.append((message.meta["ok"], message.content))
        return told
    finally:
        await environment.close()


def test_names_last_from_one_call_to_the_next():
    """What is printed is shown, and the value of a last expression; no output is no error."""
    assert said("import math\nx = 6", "print('so'); x * 7", "def f(n):\n    return n + x", "f(1)") == [
        (True, ""), (True, "so\n42"), (True, ""), (True, "7"),
    ]  # fmt: skip


def test_a_mistake_costs_no_names():
    """The traceback says what is wrong; what was written before stands after it."""
    first, syntax, raised, after = said("x = 7", "x = (", "print('before')\n1 / 0", "x")
    assert first == (True, "")
    assert not syntax[0]
    assert "SyntaxError" in syntax[1]
    assert not raised[0]
    assert raised[1].startswith("error: Traceback")
    assert "ZeroDivisionError" in raised[1]
    assert raised[1].endswith("It had written:\nbefore")
    assert after == (True, "7")


@pytest.mark.parametrize(
    ("piece", "told"),
    [
        ("while True: pass", "it was too slow"),
        ("import time; time.sleep(60)", "it was too slow"),
        ("while True: print('x' * 999)", "it wrote more than it may"),
        ("import os; os._exit(0)", "it ended"),
        ("import os; os.abort()", "SIGABRT"),
        ("import ctypes; ctypes.string_at(0)", "SIGSEGV"),
        ("import os\nos.write(3, b'{}')", "only the session writes"),
    ],
)
def test_what_hangs_floods_or_dies_is_told_and_begins_anew(piece, told):
    """From outside: nothing in the process decides. The names are gone, and the policy is told so."""
    _, died, gone, again = said("x = 1", piece, "x", "2 + 2", timeout=0.5)
    assert not died[0]
    assert told in died[1]
    assert "its names are gone" in died[1]
    assert "NameError" in gone[1]
    assert again == (True, "4")


def test_a_flood_that_is_allowed_is_cut_off():
    """A mistake after it is still seen."""
    flood, failed = said("print('x' * 10_000)", "print('x' * 10_000)\n1 / 0", longest=500)
    assert flood == (True, "x" * 500 + "… (9500 characters left out)")
    assert "ZeroDivisionError" in failed[1]


@pytest.mark.parametrize(
    "piece",
    ["import socket; socket.socket()", "open('/etc/shadow').read()", "import subprocess; subprocess.run(['ls'])"],
)
def test_nothing_is_reached_from_inside(piece):
    """No network, no file of the host, no process."""
    ((ok, _),) = said(piece)
    assert not ok


def test_episodes_have_names_of_their_own():
    """Many at a time, more than there are workers."""
    pytest.importorskip("dovetail_sandbox")

    async def many():
        return await asyncio.gather(*(_said((f"x = {n}", "x"), {}) for n in range(6)))

    assert [told[1] for told in asyncio.run(many())] == [(True, str(n)) for n in range(6)]


def test_close_ends_a_piece_that_runs():
    """An episode that is cancelled gives its place back at once, not at its deadline."""
    pytest.importorskip("dovetail_sandbox")

    async def cancelled():
        environment = await dt.environments.tools(tools=["python"], timeout=600).instance.make()
        await environment.reset(seed=0)
        code = '{"code": "import time; time.sleep(500)"}'
        step = asyncio.ensure_future(environment.step(Message("assistant", "", (dt.ToolCall("1", "python", code),))))
        session = environment._toolbox._kits[0]._session
        while session._run is None:
            await asyncio.sleep(0.01)
        step.cancel()
        await environment.close()
        return session._run

    assert asyncio.run(asyncio.wait_for(cancelled(), 60)) is None


def test_a_sandbox_that_fails_is_no_fault_of_the_policy(monkeypatch):
    """The sample becomes invalid, instead of a score."""
    sandbox = pytest.importorskip("dovetail_sandbox")

    async def failed(self, code):
        return sandbox.Result(sandbox.Status.SANDBOX_ERROR, "no more processes")

    monkeypatch.setattr(sandbox.Session, "execute_async", failed)
    with pytest.raises(ToolBroken, match="no more processes"):
        said("1")


def test_the_sandbox_is_announced():
    """With its tier and why, when a run begins that uses it."""
    pytest.importorskip("dovetail_sandbox")
    with structlog.testing.capture_logs() as lines:
        dt.environments.tools(tools=["calculator"]).instance.on_run_start(None)
        dt.environments.tools(tools=["python"]).instance.on_run_start(None)
    assert [(line["event"], line["tier"] in ("strict", "basic")) for line in lines] == [
        ("the tool python runs in a sandbox", True)
    ]


def test_without_the_sandbox_one_is_told_what_to_install(monkeypatch):
    """When the environment is made."""
    monkeypatch.setitem(sys.modules, "dovetail_sandbox", None)
    with pytest.raises(UserError, match=r"pip install \"dovetail-tools\[python\]\""):
        asyncio.run(dt.environments.tools(tools=["python"]).instance.make())
    with pytest.raises(UserError, match="needs dovetail-sandbox"):
        dt.environments.tools(tools=["python"]).instance.on_run_start(None)
