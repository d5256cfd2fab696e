"""What remote environments promise, with real servers in processes of their own."""

from __future__ import annotations

import asyncio
import contextlib
import datetime
import importlib.util
import itertools
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import grpc
import pytest
import trustme
from google.protobuf import descriptor_pb2

from dovetail import DataError, Message, StepResult, StopReason, Task, ToolCall, UserError, environments
from dovetail.errors import OptionError
from dovetail.registry import as_part
from dovetail.testing import part_checks
from dovetail_remote import environments_pb2 as pb
from dovetail_remote import environments_pb2_grpc as rpc
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


def test_an_error_that_dovetail_raises_on_purpose_stays_one(server):
    """It would be so in every episode, and stops the run as it does on the spot."""
    assert server.client().instance.traits == word_server.Word.traits == ("multi_turn",)
    local, remote = as_part("environments", word_server.Word()), server.client()

    async def step(part):
        async with episode(part) as environment:
            await environment.step(Message("assistant", "lack"))

    told = []
    for part in (local, remote):
        with pytest.raises(DataError) as error:
            asyncio.run(step(part))
        told.append(str(error.value))
    assert told == ["there is no word list\n  try: download it"] * 2


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
    with pytest.raises(TypeError, match=r"info.* cannot travel"):
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
from dovetail import DataError, Message, environments
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
                remote.instance._connection._episodes.clear()  # the heartbeat forgets it
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
            async with contextlib.AsyncExitStack() as stack:
                for _ in range(4):
                    await stack.enter_async_context(episode(server.client()))
                with pytest.raises(RemoteError, match="all 4 sessions are taken"):
                    await server.client(wait=0).instance.make()

        assert asyncio.run(flood()) == [0.5 * (number % 8 == 0) for number in range(60)]
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


class Relay:
    """A wire to the server that can be cut: a port that passes bytes on, in both directions."""

    def __init__(self, address):
        host, port = address.split(":")
        self._target, self._ends = (host, int(port)), []
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.address = f"127.0.0.1:{self._listener.getsockname()[1]}"
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self):
        with contextlib.suppress(OSError):
            while True:
                pair = (self._listener.accept()[0], socket.create_connection(self._target))
                self._ends += pair
                for source, sink in (pair, pair[::-1]):
                    threading.Thread(target=self._pass_on, args=(source, sink), daemon=True).start()

    def _pass_on(self, source, sink):
        with contextlib.suppress(OSError):
            while data := source.recv(65536):
                sink.sendall(data)

    def cut(self):
        for end in self._ends:
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
            end.close()
        self._ends.clear()

    def close(self):
        self._listener.close()
        self.cut()


def test_a_step_whose_reply_is_lost_runs_once(tmp_path):
    """The network is cut while the step runs; the retry over a new connection finds its outcome."""
    with serving(tmp_path) as server, contextlib.closing(Relay(server.address)) as relay:
        remote = environments.remote(address=relay.address, reconnect=20)

        async def one():
            async with episode(remote) as environment:
                stepping = asyncio.ensure_future(environment.step(Message("assistant", "wait")))
                while "waiting" not in server.noted():
                    await asyncio.sleep(0.01)
                relay.cut()
                (tmp_path / "go").touch()
                return await stepping, await environment.step(Message("assistant", "apple"))

        first, second = asyncio.run(asyncio.wait_for(one(), 30))
        assert (first.info, second.info) == ({"steps": 1}, {"steps": 2})
        server.wait_noted("made", "waiting", "closed")


def test_streams_of_tasks_are_fetched_as_they_are_used(server):
    """A sequence comes as a list, which a run shuffles; an endless stream as one, again from its start."""
    assert isinstance(server.client().call("tasks", {"split": "train"}), list)
    endless = server.client().call("tasks", {"split": "endless"})
    for _ in range(2):
        assert [task.id for task in itertools.islice(endless, 1200)] == [str(number) for number in range(1200)]


def test_a_refused_token_and_a_missing_one_are_told(tmp_path):
    """For tasks before anything runs, for episodes as a reason; neither is retried."""
    (tmp_path / "token").write_text("open sesame\n")
    (tmp_path / "wrong").write_text("open barley")
    with serving(tmp_path, token_file=tmp_path / "token") as server:
        right = server.client(token_file=str(tmp_path / "token"))
        assert len(list(right.call("tasks", {"split": "train"}))) == 6
        for options in ({}, {"token_file": str(tmp_path / "wrong")}):
            with pytest.raises(UserError, match="the token is missing or wrong") as error:
                server.client(**options).call("tasks", {"split": "train"})
            assert "token_file" in error.value.hint
            with pytest.raises(UserError, match="unauthenticated"):
                asyncio.run(server.client(**options).instance.make())
        assert server.noted() == []


def certify(folder, authority, name="server", **words):
    """PEM files of a new certificate."""
    issued = authority.issue_cert("localhost", "127.0.0.1", **words)
    issued.private_key_pem.write_to_path(folder / f"{name}.key")
    issued.cert_chain_pems[0].write_to_path(folder / f"{name}.pem")
    authority.cert_pem.write_to_path(folder / f"{name}.ca")
    return {"certificate": folder / f"{name}.pem", "key": folder / f"{name}.key"}


def test_tls_lets_in_whom_it_should(tmp_path):
    """An encrypted server; clients without TLS, with another authority, or without the certificate it asks for."""
    authority, stranger = trustme.CA(), trustme.CA()
    mine, theirs = certify(tmp_path, authority, "client"), certify(tmp_path, stranger, "stranger")
    words = {**certify(tmp_path, authority), "client_ca": tmp_path / "server.ca"}
    with serving(tmp_path, **words) as server:
        ca = str(tmp_path / "server.ca")
        shown = {word: str(path) for word, path in mine.items()}
        assert len(server.client(ca=ca, **shown).call("tasks", {"split": "train"})) == 6
        unknown = {word: str(path) for word, path in theirs.items()}
        for options in ({}, {"ca": ca}, {"ca": ca, **unknown}, {"ca": str(tmp_path / "stranger.ca"), **shown}):
            with pytest.raises(UserError, match="cannot be used: unavailable") as error:
                server.client(**options).call("tasks", {"split": "train"})
            assert "with TLS on both sides" in error.value.hint


def test_an_expired_certificate_is_refused_at_once(tmp_path):
    """However long the client would wait for a server to come back."""
    past = datetime.datetime.now(datetime.UTC) - datetime.timedelta(days=1)
    with serving(tmp_path, **certify(tmp_path, trustme.CA(), not_after=past)) as server:
        remote = server.client(ca=str(tmp_path / "server.ca"), reconnect=3600)
        with pytest.raises(UserError, match=r"(?i)handshake"):
            remote.call("tasks", {"split": "train"})
        with pytest.raises(RemoteError, match=r"(?i)handshake"):
            asyncio.run(remote.instance.make())


def test_messages_beyond_the_limit_cost_their_own_episode_alone(tmp_path):
    """50 MB to the server and 2 MB from it, while another episode goes on."""
    with serving(tmp_path, max_message_mb=1) as server:
        remote = server.client()

        async def episodes():
            async with episode(remote) as big, episode(remote) as small:
                with pytest.raises(RemoteError, match="the message has 50000"):
                    await big.step(Message("assistant", "x" * 50_000_000))
                with pytest.raises(RemoteError, match="the reply has 2000"):
                    await big.step(Message("assistant", "long"))
                assert (await small.step(Message("assistant", "apple"))).info == {"steps": 1}

        asyncio.run(episodes())


def test_raw_bytes_and_oversized_frames_do_no_harm(tmp_path):
    """No protocol, a broken one, a message that no client of ours would send."""
    with serving(tmp_path, max_message_mb=1) as server:
        host, port = server.address.split(":")
        preface = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
        for junk in (b"\x00" * 1000, b"GET / HTTP/1.1\r\n\r\n", preface + b"\xff" * 500, preface + os.urandom(500)):
            with socket.create_connection((host, int(port))) as connection, contextlib.suppress(OSError):
                connection.sendall(junk)
        with grpc.insecure_channel(server.address) as channel:
            converse = channel.stream_stream("/dovetail.environments.v1.Environments/Converse")
            for message in (b"\xff" * 100, b"\x00" * 50_000_000):
                with pytest.raises(grpc.RpcError):
                    list(converse(iter([message]), timeout=20))
        asyncio.run(play(server.client(), None, ["apple"]))
        server.wait_noted("made", "closed")


def test_a_client_that_does_not_read_stops_nobody_else(tmp_path):
    """It asks for 500 long replies and reads none; others go on, and what it holds ends with its lease."""
    with serving(tmp_path, lease=2, capacity=4) as server, grpc.insecure_channel(server.address) as channel:
        stub = rpc.EnvironmentsStub(channel)
        open_ = pb.Request(id=1, open=pb.OpenRequest(session="0123456789abcdef"))
        reset = pb.ResetRequest(session="0123456789abcdef", turn=1)
        again = [pb.Request(id=2 + n, reset=reset) for n in range(500)]
        talk = stub.Converse(iter([pb.Requests(requests=[open_]), pb.Requests(requests=again)]))
        result = asyncio.run(asyncio.wait_for(play(server.client(), None, ["apple", "apple"]), 20))
        assert isinstance(result[-1], StepResult)
        server.wait_noted(*["made", "closed"] * 2)
        talk.cancel()


def test_sigterm_lets_the_open_sessions_end_and_admits_no_others(tmp_path):
    """Then the server goes, with exit code 0."""
    with serving(tmp_path) as server:

        async def episodes():
            async with episode(server.client()) as environment:
                server.kill(signal.SIGTERM)
                assert server.process.stdout.readline() == "draining 1 sessions\n"
                assert (await environment.step(Message("assistant", "apple"))).info == {"steps": 1}
                with pytest.raises(RemoteError, match="shutting down"):
                    await server.client(reconnect=0).instance.make()

        asyncio.run(episodes())
        assert server.process.stdout.readline() == "stopped\n"
        assert server.process.wait(20) == 0
        server.wait_noted("made", "closed")


def test_a_server_goes_although_a_step_hangs(tmp_path):
    """The drain has its end."""
    with serving(tmp_path, drain=0.2) as server:

        async def episodes():
            async with episode(server.client()) as environment:
                hanging = asyncio.ensure_future(environment.step(Message("assistant", "hang")))
                await environment._connection.call(pb.Request(close=pb.CloseRequest(session="another")))
                server.kill(signal.SIGTERM)
                with pytest.raises(RemoteError):
                    await asyncio.wait_for(hanging, 20)

        asyncio.run(episodes())
        assert server.process.wait(20) == 0
        server.wait_noted("made", "closed")


def test_nothing_is_left_in_the_client(server):
    """No thread and no connection after the run has ended."""
    before = set(threading.enumerate())
    remote = server.client()
    asyncio.run(play(remote, None, ["apple"]))
    remote.instance.on_run_end(None, "done")
    until = time.monotonic() + 20
    while (
        left := {thread for thread in threading.enumerate() if thread.is_alive()} - before
    ) and time.monotonic() < until:
        time.sleep(0.02)
    assert not left
    asyncio.run(play(remote, None, ["apple"]))  # and it may go on


def test_a_server_that_is_not_there_is_told_with_a_way_out():
    """Within the time that it may take to come back."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        remote = environments.remote(address=f"127.0.0.1:{free.getsockname()[1]}", reconnect=0.2)
        with pytest.raises(UserError, match="cannot be used: unavailable") as error:
            remote.call("tasks", {"split": "train"})
        assert "dovetail serve environments" in error.value.hint


def test_unknown_names_are_told(server):
    """Of environments by the server, with those it has; what tasks() raises with its words."""
    with pytest.raises(UserError, match="no environment 'world' is served here; there are: word"):
        server.client(environment="world").call("tasks", {"split": "train"})
    with pytest.raises(UserError, match="no such split"):
        server.client().call("tasks", {"split": "gone"})


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ({"environments": "[math]", "capcity": 3}, "did you mean 'capacity'"),
        ({"environments": "[math]", "lease": "soon"}, r"expected float, got str 'soon'  at lease \(serve.yaml:2\)"),
        ({"environments": "[]"}, "no environment to serve"),
        ({"environments": "[{name: x}]"}, "is written {use: <name>"),
        ({"environments": "[here, {use: here}]"}, "two environments are called 'here'"),
        ({"environments": "[here]", "address": "0.0.0.0:1"}, "lacks TLS or a token"),
        ({"environments": "[here]", "address": "example.org:1", "token_file": "t"}, "lacks TLS or a token"),
        ({"environments": "[here]", "key": "k"}, "certificate and key belong together"),
        ({"environments": "[here]", "client_ca": "k"}, "client_ca needs TLS"),
    ],
)
def test_a_configuration_that_does_not_fit_is_refused(tmp_path, words, message):
    """Before the server listens, with what, where and how to mend it."""
    (tmp_path / "serve.yaml").write_text("\n".join(f"{word}: {value}" for word, value in words.items()))
    environments.register("here", word_server.Word)

    def read():
        settings = read_settings(str(tmp_path / "serve.yaml"), [])
        build_environments(settings.environments)
        check_safety(settings, insecure=False)

    with pytest.raises(UserError, match=message):
        read()


def test_secrets_that_cannot_be_used_are_told(tmp_path):
    """The file is missing, empty, or not what travels in a header."""
    (tmp_path / "empty").write_text(" \n")
    (tmp_path / "odd").write_text("pässword")
    for name in ("gone", "empty", "odd"):
        with pytest.raises(UserError, match=r"cannot be read|holds no token"):
            environments.remote(address="127.0.0.1:1", token_file=str(tmp_path / name)).call(
                "tasks", {"split": "train"}
            )
    for options in ({"certificate": "c"}, {"certificate": "c", "key": "k"}):
        with pytest.raises(OptionError):
            environments.remote(address="127.0.0.1:1", **options)


def test_the_generated_modules_are_those_of_the_protocol(tmp_path):
    """Its description, field by field, is the one that protoc gives today."""
    protoc = pytest.importorskip("grpc_tools.protoc")
    root = Path(pb.__file__).parents[1]
    made = tmp_path / "set"
    assert protoc.main(["", f"-I{root}", f"--descriptor_set_out={made}", "dovetail_remote/environments.proto"]) == 0
    (described,) = descriptor_pb2.FileDescriptorSet.FromString(made.read_bytes()).file
    committed = descriptor_pb2.FileDescriptorProto.FromString(pb.DESCRIPTOR.serialized_pb)
    assert without_json_names(described.message_type) == without_json_names(committed.message_type)
    assert described.service == committed.service


def without_json_names(messages):
    """Some protocs write them, though they follow from the names."""
    for message in messages:
        without_json_names(message.nested_type)
        for field in message.field:
            field.ClearField("json_name")
    return list(messages)
