"""OpenEnv environments: a real server of the package openenv-core, and what goes wrong with one."""

from __future__ import annotations

import asyncio
import contextlib
import http.server
import json
import random
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from dovetail import DataError, Message, StopReason, Task, ToolCall, UserError, environments
from dovetail.errors import OptionError
from dovetail.testing import part_checks
from dovetail_openenv.client import OpenEnvError
from dovetail_openenv.episode import reward_of
from dovetail_openenv.words import action_of, shown

SERVER = Path(__file__).with_name("openenv_server.py")
GUESS = {"action": {"number": "{text}"}, "read": "number", "size": 16, "test_size": 4}
TOOLS = {"action": {}, "calls": "hermes", "size": 16, "test_size": 4, "max_turns": 5}


class Server:
    """One in a process of its own, with environments under ``/guess``, ``/tools``, and ``/full`` with three places."""

    def __init__(self):
        pytest.importorskip("openenv", reason="openenv-core is not installed")
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        self.url = f"http://127.0.0.1:{port}"
        self.process = subprocess.Popen([sys.executable, str(SERVER), str(port)])
        until = time.monotonic() + 60
        while time.monotonic() < until and self.process.poll() is None:
            with contextlib.suppress(OSError):
                socket.create_connection(("127.0.0.1", port)).close()
                return
            time.sleep(0.02)
        raise RuntimeError("the server does not start")

    def close(self):
        self.process.kill()
        self.process.wait()


@pytest.fixture(scope="module")
def server():
    server = Server()
    yield server
    server.close()


@pytest.fixture
def guess(server):
    return f"{server.url}/guess"


@pytest.fixture
def tools(server):
    return f"{server.url}/tools"


def number(task):
    """What the server has drawn."""
    return random.Random(task.columns["reset"]["seed"]).randrange(100)


def called(task):
    return f'<tool_call>{{"name": "guess", "arguments": {{"number": {number(task)}}}}}</tool_call>'


ONE_TEXT = {"it has tasks, the same ones at each call": "a task is a seed; its first prompt comes with the reset"}
HIDES = "the answer is nowhere before the end"
CASES = {"guess": (GUESS, lambda task: str(number(task))), "tools": (TOOLS, called)}


def checks(kind, url):
    options, gold = CASES[kind]
    options = {**options, "url": url}
    return {str(c): c for c in part_checks("environments", "openenv", options=options, gold=gold, waive=ONE_TEXT)}


@pytest.mark.parametrize("kind", CASES)
@pytest.mark.parametrize("claim", checks("guess", "http://-"))
def test_conformance(kind, claim, request):
    """It keeps what every environment promises, by text and by tools."""
    checks(kind, request.getfixturevalue(kind))[claim]()


def played(texts, url, *, task=None, **options):
    part = environments.openenv(url=url, **options)

    async def go():
        environment = await part.instance.make()
        try:
            results = [await environment.reset(seed=0, task=task or part.call("tasks", {"split": "train"})[0])]
            for text in texts:
                message = text if isinstance(text, Message) else Message("assistant", text)
                results.append(await environment.step(message))
            return environment.tools, results
        finally:
            await environment.close()

    return asyncio.run(asyncio.wait_for(go(), 60))


def start(value):
    return Task("0", (Message("user", "?"),), columns={"reset": {"number": value}})


def test_a_game_is_played_in_words(guess):
    """Observations, rewards and the end are the server's; an action that it refuses costs a turn and is told."""
    _, results = played(["I say 10.", "fifty", "500", "40"], guess, task=start(40), show="hint", **GUESS)
    told = [result.messages[0].content for result in results]
    assert told[0] == "a number below 100, and you may try 3 times"
    assert told[1] == "too low"
    assert told[2] == "That is no action: there is no number in it."
    assert told[3].startswith("That is no action: number: Input should be less than or equal to 99")
    assert told[4] == "right"
    assert [result.reward for result in results] == [0, 0, 0, 0, 1]
    assert [result.terminated for result in results] == [False] * 4 + [True]
    assert results[-1].stop_reason is StopReason.COMPLETED


def test_the_limit_of_turns_truncates(guess):
    """Also where no turn was an action."""
    _, results = played(["?", "?"], guess, max_turns=2, **GUESS)
    assert [result.truncated for result in results] == [False, False, True]


def test_tools_of_an_environment_are_told_and_called(tools):
    """Their rewards add up; a wrong call is answered with what is wrong."""
    calls = tuple(ToolCall(str(n), "guess", json.dumps({"number": n})) for n in (39, 40, 41))
    wrong = '<tool_call>{"name": "gess", "arguments": {}}</tool_call>'
    specs, results = played(
        [wrong, Message("assistant", "", calls)], tools, task=start(40), **{**TOOLS, "max_turns": 9}
    )
    assert [(spec.name, spec.parameters["required"]) for spec in specs] == [("guess", ["number"])]
    assert results[1].messages[0].content == "error: no such call of gess"
    assert [m.content for m in results[2].messages] == [
        "too low",
        "right",
        "error: the episode was over before this call",
    ]
    assert [m.tool_call_id for m in results[2].messages] == ["39", "40", "41"]
    assert (results[2].reward, results[2].terminated) == (1.0, True)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("66", "EXECUTION_ERROR: the number of the beast"),
        ("77", r"no answer within 0\.5 s"),
    ],
)
def test_an_environment_that_fails_makes_the_sample_invalid(guess, text, told):
    """It raises or hangs; it is never 0."""
    with pytest.raises(OpenEnvError, match=told):
        played([text], guess, task=start(1), **{**GUESS, "timeout": 0.5})


@pytest.mark.parametrize("reward", [float("nan"), float("inf"), "1", [1]])
def test_what_is_no_number_is_no_reward(reward):
    """None and truth values are."""
    with pytest.raises(OpenEnvError, match="no finite number"):
        reward_of({"reward": reward})
    assert [reward_of({"reward": value}) for value in (None, True, 2)] == [0.0, 1.0, 2.0]


def test_a_server_that_is_killed_makes_the_sample_invalid():
    """At once; and a new episode is told that there is none."""
    server = Server()
    part = environments.openenv(url=f"{server.url}/guess", **GUESS)

    async def go():
        environment = await part.instance.make()
        await environment.reset(seed=0)
        server.close()
        with pytest.raises(OpenEnvError, match="was lost"):
            await environment.step(Message("assistant", "1"))
        with pytest.raises(OpenEnvError, match="no connection"):
            await environment.step(Message("assistant", "1"))
        await environment.close()
        with pytest.raises(OpenEnvError, match="cannot be reached"):
            await (await part.instance.make()).reset(seed=0)

    asyncio.run(asyncio.wait_for(go(), 60))


def test_a_full_server_lets_episodes_wait(server):
    """Nine on three places; who may not wait is told at once."""

    async def one(wait):
        environment = await environments.openenv(url=f"{server.url}/full", wait=wait, **GUESS).instance.make()
        try:
            await environment.reset(seed=0, task=start(7))
            return (await environment.step(Message("assistant", "7"))).reward
        finally:
            await environment.close()

    async def flood(wait):
        return await asyncio.gather(*(one(wait) for _ in range(9)), return_exceptions=True)

    assert asyncio.run(asyncio.wait_for(flood(60), 90)) == [1.0] * 9
    refused = [each for each in asyncio.run(asyncio.wait_for(flood(0), 90)) if each != 1.0]
    assert refused
    assert all("CAPACITY_REACHED" in str(each) for each in refused)


def test_tasks_are_seeds_or_come_from_a_file(guess, tmp_path):
    """The last lines of a file are the test split."""
    part = environments.openenv(url=guess, **GUESS)
    starts = {split: [t.columns["reset"] for t in part.call("tasks", {"split": split})] for split in ("train", "test")}
    assert starts == {"train": [{"seed": n} for n in range(16)], "test": [{"seed": n} for n in range(16, 20)]}
    path = tmp_path / "tasks.jsonl"
    path.write_text("".join(json.dumps({"number": n}) + "\n" for n in range(6)))
    part = environments.openenv(url=guess, path=str(path), **GUESS)
    assert [t.columns["reset"]["number"] for t in part.call("tasks", {"split": "test"})] == [2, 3, 4, 5]
    path.write_text("[1]\n")
    with pytest.raises(DataError, match=r"tasks\.jsonl:1"):
        part.call("tasks", {"split": "train"})


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"action": {"nmber": "{text}"}}, "did you mean 'number'"),
        ({"action": {"number": 1, "x": "{text}"}}, "no field 'x'"),
        ({"url": "http://127.0.0.1:9"}, "is it running there"),
    ],
)
def test_a_server_that_does_not_fit_is_told_before_anything_is_sampled(guess, options, told):
    """When the run asks for its tasks."""
    part = environments.openenv(**{"url": guess, **options})
    with pytest.raises(UserError, match=told):
        part.call("tasks", {"split": "train"})


def test_another_server_is_told():
    """A web server that knows nothing of OpenEnv."""
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), http.server.BaseHTTPRequestHandler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        part = environments.openenv(url=f"http://127.0.0.1:{server.server_port}")
        with pytest.raises(UserError, match="/schema must answer"):
            part.call("tasks", {"split": "train"})
        with pytest.raises(OpenEnvError, match="cannot be reached"):
            asyncio.run(_reset(part))
        server.shutdown()


async def _reset(part):
    await (await part.instance.make()).reset(seed=0)


@pytest.mark.parametrize(
    ("text", "template", "read", "action"),
    [
        ("go north", {"message": "{text}"}, "text", {"message": "go north"}),
        ("go", {"move": {"say": "I {text}!"}, "loud": True}, "text", {"move": {"say": "I go!"}, "loud": True}),
        ("not 3 but -4", {"id": "{text}"}, "number", {"id": -4}),
        ("1.5e1", {"xs": ["{text}", 0]}, "number", {"xs": [15.0, 0]}),
        ('so\n```json\n{"a": 1}\n```\nor\n```\n{"a": 2}\n```', "{text}", "json", {"a": 2}),
        ('I play {"a": {"b": 1}}.', "{text}", "json", {"a": {"b": 1}}),
        ("[1, 2]", {"path": "{text}"}, "json", {"path": [1, 2]}),
    ],
)
def test_actions_are_read_out_of_texts(text, template, read, action):
    """Types stay what they are."""
    assert repr(action_of(text, template, read)) == repr(action)


def test_observations_become_texts():
    """The only text by itself; else JSON, without what belongs to the trainer."""
    plain = {"hint": "low", "done": False, "reward": 1, "metadata": {"answer": 3}}
    assert shown(plain, None) == "low"
    assert shown({**plain, "left": 2}, None) == '{"hint": "low", "left": 2}'
    assert shown({**plain, "left": 2}, "left") == "2"
    with pytest.raises(ValueError, match="no field 'board'; it has hint"):
        shown(plain, "board")


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"url": "localhost:8000"}, "begins with http"),
        ({"action": {"message": "hello"}}, "must hold {text}"),
        ({"action": "{text}"}, "read as json"),
        ({"action": {}}, "calls of tools"),
        ({"prompt": "hello"}, "prompt must hold"),
    ],
)
def test_options_that_do_not_fit_are_told(options, told):
    """Before anything is asked."""
    with pytest.raises(OptionError, match=told):
        environments.openenv(**{"url": "http://x", **options})
