"""What voices promise; how an endpoint's failures end is tested where it counts, in dovetail-judge."""

from __future__ import annotations

import asyncio
import json
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest

import dovetail as dt
from dovetail import Message, ToolCall
from dovetail_chat import Failed, VoiceSettings, voice_of
from dovetail_chat.voice import Voice

TALK = [Message("system", "Be brief."), Message("user", "Hello"), Message("assistant", "Hi"), Message("user", "Who?")]


class Letters:
    """A generator that says one letter, chosen by the seed, as often as it may."""

    @dt.hookimpl
    def generate(self, tokenizer, prompts, samples, sampling, seeds):
        letters = [tokenizer.encode(chr(97 + seed % 26), add_special_tokens=False) for seed in seeds.tolist()]
        completions = dt.Ragged.from_rows([letter * sampling.max_tokens for letter in letters])
        return dt.Generated(completions, completions.map(lambda tokens: -0.1 * tokens), ("length",) * len(completions))


@pytest.fixture
def endpoint():
    """A server that answers with the last word it heard."""
    heard = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self):
            body = json.loads(self.rfile.read(int(self.headers["content-length"])))
            heard.append((self.path, body))
            reply = {"choices": [{"message": {"content": f"You said {body['messages'][-1]['content']}"}}]}
            data = json.dumps(reply).encode()
            self.send_response(200)
            self.send_header("content-length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, *_):
            pass

    server = HTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}/v1/", heard
    server.shutdown()
    server.server_close()


def local(**options):
    tiny = {"hidden": 16, "layers": 1, "heads": 2, "context": 200}
    return voice_of({"agent": {"tiny": tiny, "generator": Letters()}, "max_tokens": 3, **options})


def test_an_endpoint_hears_the_whole_conversation(endpoint):
    """With roles, calls and the seed."""
    url, heard = endpoint
    called = Message("assistant", "", (ToolCall("1", "f", "{}"),))
    answer = asyncio.run(voice_of({"url": url, "model": "m"}).answer([*TALK, called, Message("tool", "3")], seed=7))
    assert answer == "You said 3"
    ((path, body),) = heard
    assert path == "/v1/chat/completions"
    assert [message["role"] for message in body["messages"]] == [
        "system",
        "user",
        "assistant",
        "user",
        "assistant",
        "tool",
    ]
    assert body["messages"][4]["tool_calls"][0]["function"]["name"] == "f"
    assert (body["model"], body["seed"], body["temperature"], body["max_tokens"]) == ("m", 7, 0.0, 512)


def test_a_local_agent_draws_from_its_seed():
    """Whatever is beside it, and whatever the batch."""
    alone = [asyncio.run(local().answer(TALK, seed)) for seed in range(5)]
    assert alone == ["aaa", "bbb", "ccc", "ddd", "eee"]
    together: dict[int, str] = {}
    asyncio.run(local(in_flight=2).ask([TALK] * 5, together.__setitem__, range(5)))
    assert [together[number] for number in range(5)] == alone


def test_a_conversation_that_is_too_long_fails_alone():
    """With the reason."""
    answers: dict[int, str | Failed] = {}
    asyncio.run(local().ask([TALK, [Message("user", "x" * 500)], TALK], answers.__setitem__))
    assert (answers[0], answers[2]) == ("aaa", "aaa")
    assert "cannot be read" in str(answers[1])


def test_one_who_fails_says_why():
    """To who asked for a single answer."""
    with pytest.raises(Failed, match="m failed 1 times, at last: ConnectError"):
        asyncio.run(voice_of({"url": "http://127.0.0.1:9", "model": "m", "retries": 0}).answer(TALK))


def test_the_identity_is_what_an_answer_depends_on():
    """Not how long one waits for it."""
    first, patient, other = (
        VoiceSettings(url="http://x", model="m", **options).identity()
        for options in ({}, {"timeout": 9.0}, {"temperature": 0.5})
    )
    assert first == patient != other


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ({}, "give either url and model, or agent"),
        ({"url": "http://x"}, "belong together"),
        ({"url": "x", "model": "m"}, "must begin with http"),
        ({"url": "http://x", "modle": "m"}, "did you mean 'model'"),
        ({"url": "http://x", "model": "m", "retries": -1}, "retries"),
    ],
)
def test_words_that_do_not_fit_are_refused(words, message):
    """Before anybody is asked."""
    with pytest.raises(ValueError, match=message):
        voice_of(words)


def test_a_voice_that_cannot_be_asked_is_named():
    """A subclass without ask()."""

    class Mute(Voice):
        pass

    with pytest.raises(NotImplementedError, match=r"Mute does not implement ask\(\)"):
        asyncio.run(Mute(VoiceSettings(url="http://x", model="m")).answer(TALK))
