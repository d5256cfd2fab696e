"""What remote environments promise, with real servers in processes of their own."""

from __future__ import annotations

import asyncio
import contextlib
import datetime
import importlib.util
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
import trustme

from dovetail import Message, StepResult, StopReason, Task, ToolCall, UserError, environments
from dovetail.errors import ConfigError, OptionError
from dovetail.registry import as_part
from dovetail.runtime.scoring import episode_reward
from dovetail.testing import part_checks
from dovetail_remote import wire
from dovetail_remote.errors import RemoteError, SessionLost
from dovetail_remote.serve import build_environments, check_safety, read_settings

SERVER = Path(__file__).with_name("word_server.py")
_spec = importlib.util.spec_from_file_location("word_server", SERVER)
word_server = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(word_server)


class Server:
    """``dovetail serve environments`` in a process of its own."""

    def __init__(self, folder, **words):
        self.log = folder / "environments.log"
        self.log.touch()
        config = folder / "serve.yaml"
        lines = {"environments": f"[{{use: word, log: {self.log}}}]", "address": "127.0.0.1:0", **words}
        config.write_text("\n".join(f"{word}: {value}" for word, value in lines.items()))
        self.errors = (folder / "stderr").open("w+")
        self.process = subprocess.Popen(
            [sys.executable, str(SERVER), str(config)], stdout=subprocess.PIPE, stderr=self.errors, text=True
        )
        said = self.process.stdout.readline()
        assert said.startswith("serving word on "), (folder / "stderr").read_text()
        self.address = said.split()[-1]

    def client(self, **options):
        return environments.remote(address=self.address, **{"timeout": 20, "reconnect": 0.5, **options})

    def kill(self, number=signal.SIGKILL):
        self.process.send_signal(number)

    def noted(self):
        return self.log.read_text().split()

    def wait_noted(self, *expected):
        until = time.monotonic() + 20
        while sorted(self.noted()) != sorted(expected) and time.monotonic() < until:
            time.sleep(0.02)
        assert sorted(self.noted()) == sorted(expected)

    def close(self):
        self.process.kill()
        self.process.wait()
        self.process.stdout.close()
        self.errors.close()


@contextlib.contextmanager
def serving(folder, **words):
    server = Server(folder, **words)
    try:
        yield server
    finally:
        server.close()


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    with serving(tmp_path_factory.mktemp("server")) as server:
        yield server


@contextlib.asynccontextmanager
async def episode(remote, *, answer=None):
    environment = await remote.instance.make()
    try:
        await environment.reset(seed=0, task=Task.of("Write apple twice", "a") if answer is None else answer)
        yield environment
    finally:
        await environment.close()


async def play(part, task, texts):
    environment = await part.instance.make()
    seen = [environment.tools, environment.agents, await environment.reset(seed=3, task=task)]
    for text in texts:
        try:
            seen.append(await environment.step(Message("assistant", text)))
        except Exception as error:
            seen.append(f"{type(error).__name__}: {error}"[:2000])
    await environment.close()
    return seen


@pytest.fixture(scope="module")
def checks(server):
    options = {"address": server.address}
    gold = {"gold": lambda task: task.answer}
    return {str(check): check for check in part_checks("environments", "remote", options=options, **gold)}


CLAIMS = [str(check) for check in part_checks("environments", "remote", options={"address": "-"}, gold=str)]


@pytest.mark.parametrize("claim", CLAIMS)
def test_conformance(checks, claim):
    """It keeps what every environment promises, because the one behind it does."""
    checks[claim]()


def test_nobody_can_tell_it_from_the_environment_itself(server):
    """Tasks, tools, steps, types of numbers, errors by name and words."""
    local, remote = as_part("environments", word_server.Word()), server.client()
    for split in ("train", "test"):
        assert list(local.call("tasks", {"split": split})) == list(remote.call("tasks", {"split": split}))
    for task in [None, *local.call("tasks", {"split": "train"})]:
        for texts in [("apple", "bread", "late"), ("fail", "cloud", "cloud"), ("huge",)]:
            here, there = (asyncio.run(play(part, task, texts)) for part in (local, remote))
            assert here == there
            assert repr(here) == repr(there), "a number has changed its type"


def test_invalid_samples_have_the_same_reasons(server):
    """As a run scores them, up to the line of the error."""
    tasks = [Task(word, (), word) for word in word_server.WORDS[:3]]
    results = []
    for part in (as_part("environments", word_server.Word()), server.client()):
        scores = asyncio.run(episode_reward(part).instance.score(texts=["apple", "fail", "no"], tasks=tasks))
        results.append([getattr(score, "reason", score) for score in scores])
    here, there = results
    assert (here[0], here[2]) == (there[0], there[2]) == (1.0, 0.0)
    assert here[1].partition(" at ")[0] == there[1].partition(" at ")[0] == "KeyError: 'no such thing'"


def test_values_keep_their_types():
    """Messages with calls, empty and missing fields, integers beyond 64 bits, nan."""
    call = ToolCall("1", "f", '{"x": 1}')
    message = Message("assistant", "", (call,), None, "", {"big": 2**70, "one": 1, "x": 1.0, "deep": [{"": None}]})
    assert repr(wire.message_in(wire.message_out(message))) == repr(message)
    result = StepResult([message], float("nan"), {"a": float("inf")}, truncated=True, stop_reason=StopReason.TIMEOUT)
    assert repr(wire.result_in(wire.result_out(result))) == repr(result)
    for task in (Task("", (), {}), Task("1", (message,), None, {"c": [1, 2.0, True]}), Task("2", (), "a")):
        assert repr(wire.task_in(wire.task_out(task))) == repr(task)


@pytest.mark.parametrize("value", [{1: 2}, {"a": {3}}, [object()], {"x": b"bytes"}])
def test_what_would_arrive_as_something_else_is_refused(value):
    """With the place; the sample becomes invalid."""
    with pytest.raises(TypeError, match="info.* cannot travel"):
        wire.result_out(StepResult(info={"here": value}))


def test_a_killed_server_costs_its_episodes_and_none_is_a_zero(tmp_path):
    """kill -9 between two steps and inside one: SessionLost, at once."""
    with serving(tmp_path) as server:

        async def episodes():
            async with episode(server.client()) as quiet, episode(server.client()) as busy:
                hanging = asyncio.ensure_future(busy.step(Message("assistant", "hang")))
                await quiet.step(Message("assistant", "apple"))
                server.kill()
                for step in (hanging, quiet.step(Message("assistant", "apple"))):
                    with pytest.raises(SessionLost):
                        await asyncio.wait_for(step, 30)

        asyncio.run(episodes())


def test_a_restarted_server_does_not_know_the_sessions_of_the_old_one(tmp_path):
    """The old episode is lost, new ones go on over the same client."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    with serving(tmp_path, address=address) as first:
        remote = first.client(reconnect=20)

        async def episodes():
            async with episode(remote) as old:
                first.close()
                with serving(tmp_path, address=address):
                    with pytest.raises(SessionLost, match="no such session"):
                        await old.step(Message("assistant", "apple"))
                    async with episode(remote) as new:
                        assert (await new.step(Message("assistant", "apple"))).reward == 0.0

        asyncio.run(episodes())


def test_a_killed_client_leaves_nothing_behind(tmp_path):
    """Its sessions end with their lease, also one in the middle of a step."""
    code = """
import asyncio, os, sys
from dovetail import Message, environments
async def main():
    episodes = [await environments.remote(address=sys.argv[1]).instance.make() for _ in range(3)]
    for episode in episodes:
        await episode.reset(seed=0)
    asyncio.ensure_future(episodes[0].step(Message("assistant", "hang")))
    await episodes[1].step(Message("assistant", "apple"))
    os.kill(os.getpid(), 9)
asyncio.run(main())
"""
    with serving(tmp_path, lease=1) as server:
        subprocess.run([sys.executable, "-c", code, server.address], check=False, timeout=60)
        server.wait_noted(*["made"] * 3, *["closed"] * 3)


def test_an_idle_episode_lives_as_long_as_its_client(tmp_path):
    """The heartbeat keeps it through many leases; without one it ends."""
    with serving(tmp_path, lease=0.5) as server:
        remote = server.client()

        async def episodes():
            async with episode(remote) as kept:
                await asyncio.sleep(2)
                await kept.step(Message("assistant", "apple"))
                remote.instance._connection._stopped.set()
                while "closed" not in server.noted():
                    await asyncio.sleep(0.05)
                with pytest.raises(SessionLost, match="its lease has ended"):
                    await kept.step(Message("assistant", "apple"))

        asyncio.run(asyncio.wait_for(episodes(), 30))


def test_a_full_server_lets_episodes_wait_and_all_of_them_finish(tmp_path):
    """A flood of 60 on 4 places; who may not wait is told at once, and is invalid."""
    with serving(tmp_path, capacity=4) as server:

        async def one(remote, number):
            async with episode(remote, answer=Task("a", (), word_server.WORDS[number % 8])) as environment:
                return (await environment.step(Message("assistant", "apple"))).reward

        async def flood():
            remote = server.client()
            return await asyncio.gather(*(one(remote, number) for number in range(60)))

        async def impatient():
            async with episode(server.client()), episode(server.client()), episode(server.client()):
                async with episode(server.client()):
                    with pytest.raises(RemoteError, match="all 4 sessions are taken"):
                        await server.client(wait=0).instance.make()

        assert asyncio.run(flood()) == [float(number % 8 == 0) for number in range(60)]
        asyncio.run(impatient())
        server.wait_noted(*["made", "closed"] * 64)


def test_a_step_past_its_deadline_is_invalid_and_is_stopped(tmp_path):
    """The client gives up, and closing stops what the server still does."""
    with serving(tmp_path) as server:

        async def one():
            async with episode(server.client(timeout=0.5)) as environment:
                with pytest.raises(RemoteError, match=r"no answer within 0\.5 s"):
                    await environment.step(Message("assistant", "hang"))

        asyncio.run(one())
        server.wait_noted("made", "closed")


def test_a_reply_that_was_lost_is_given_again_and_the_step_runs_once(server):
    """The connection breaks in the middle of a step; its retry finds the outcome."""
    remote = server.client(reconnect=10)

    async def one():
        async with episode(remote) as environment:
            connection = remote.instance._connection
            first = connection.call
            stepping = asyncio.ensure_future(environment.step(Message("assistant", "apple")))
            await asyncio.sleep(0)  # it is asked
            connection._stream._call.cancel()
            assert first == connection.call
            with contextlib.suppress(RemoteError):
                assert (await stepping).info == {"steps": 1}
                return await environment.step(Message("assistant", "apple"))

    result = asyncio.run(one())
    assert result is None or result.info == {"steps": 2}
