"""What the environment promises, with a model behind a real server on a local port."""

from __future__ import annotations

import asyncio
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

import dovetail as dt
from dovetail import DataError, Message, StopReason, Task, environments
from dovetail.errors import OptionError
from dovetail.testing import part_checks
from dovetail_llm import LanguageModel
from dovetail_llm.episode import NoAnswer


class Handler(BaseHTTPRequestHandler):
    """A user who wants a word; it is done when it hears it, and scores by the number of turns that took."""

    protocol_version = "HTTP/1.1"

    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["content-length"])))
        said = [message["content"] for message in body["messages"]]
        wish, heard = said[0].partition("wish: ")[2].split()[0], said[3::2]
        self.server.heard.append(body)
        if "Leave your role" in said[-1]:
            text = "Score: 11" if wish == "odd" else f"Hm. Score: {max(0, 12 - len(heard)) if wish in heard[-2] else 0}"
        elif wish == "silence":
            return self._send(400, {"error": "no"})
        else:
            text = "[DONE]" if wish in said[-1] else f"No, not {said[-1]!r}."
        return self._send(200, {"choices": [{"message": {"content": text}}]})

    def _send(self, code, body):
        data = json.dumps(body).encode()
        self.send_response(code)
        self.send_header("content-length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *_):
        pass


@pytest.fixture(scope="module")
def endpoint():
    server = type("Server", (ThreadingHTTPServer,), {"request_queue_size": 64})(("127.0.0.1", 0), Handler)
    server.daemon_threads, server.heard = True, []
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server
    server.shutdown()
    server.server_close()


@pytest.fixture(scope="module")
def options(endpoint, tmp_path_factory):
    path = tmp_path_factory.mktemp("llm") / "scenarios.jsonl"
    rows = [{"opening": f"Guess number {n}", "scenario": f"wish: w{n} ", "answer": f"w{n}"} for n in range(60)]
    path.write_text("\n".join(map(json.dumps, rows)))
    url = f"http://127.0.0.1:{endpoint.server_port}/v1"
    return {"voice": {"url": url, "model": "m", "retries": 0}, "path": str(path), "max_turns": 3}


GOLD = {"gold": lambda task: task.answer}
UNUSED = {"voice": {"url": "http://x", "model": "m"}, "path": "-"}
CLAIMS = [str(check) for check in part_checks("environments", "llm", options=UNUSED, **GOLD)]


@pytest.mark.parametrize("claim", CLAIMS)
def test_conformance(options, claim):
    """It keeps what every environment promises, with a model that answers the same each time."""
    checks = {str(check): check for check in part_checks("environments", "llm", options=options, **GOLD)}
    checks[claim]()


def talk(options, *texts, task=None, **more):
    async def play():
        environment = await LanguageModel(**{**options, **more}).make()
        results = [await environment.reset(seed=0, task=task or LanguageModel(**options).tasks("train")[0])]
        for text in texts:
            results.append(await environment.step(Message("assistant", text)))
        await environment.close()
        return results

    return asyncio.run(play())


def test_a_user_is_played_until_the_wish_is_fulfilled(options, endpoint):
    """The policy hears the opening and the replies, never the scenario; the model's score is the reward."""
    endpoint.heard.clear()
    wish = LanguageModel(**options).tasks("train")[0].answer
    results = talk(options, "a?", f"{wish}!", brief="You guess.")
    assert results[0].messages[-1].content.startswith("Guess number")
    assert results[1].messages == (Message("user", "No, not 'a?'."),)
    assert (results[2].reward, results[2].terminated, results[2].stop_reason) == (0.9, True, StopReason.COMPLETED)
    assert "wish" not in repr([result.messages for result in results])
    roles = [message["role"] for message in endpoint.heard[-1]["messages"]]
    assert roles == ["system", "user", "assistant", "user", "assistant", "user", "assistant", "user"]
    assert "[DONE]" in endpoint.heard[-1]["messages"][0]["content"]


def test_the_limit_of_turns_truncates_and_scores(options):
    """The last reply is in info."""
    result = talk(options, "a", "b", "c")[-1]
    assert (result.reward, result.truncated, result.stop_reason) == (0.0, True, StopReason.MAX_TURNS)
    assert result.info == {"last_reply": "No, not 'c'."}


def test_without_a_question_the_runs_rewards_decide(options):
    """Nothing is asked at the end."""
    result = talk(options, "a", question=None, max_turns=1)[-1]
    assert (result.reward, result.reward_components, result.truncated) == (0.0, {}, True)


@pytest.mark.parametrize(
    ("wish", "message"),
    [("odd", "no score from 0 to 10: 'Score: 11'"), ("silence", "gave no answer: m refuses: 400")],
)
def test_a_model_that_fails_makes_the_sample_invalid(options, wish, message):
    """It raises, with the reason."""
    task = Task("t", (Message("user", "Guess"),), columns={"opening": "Guess", "scenario": f"wish: {wish} "})
    with pytest.raises(NoAnswer, match=message):
        talk(options, "a", task=task, max_turns=1)


def test_a_local_agent_may_play(options):
    """Through its generator; the policy's system message is the policy's alone."""

    class Done:
        @dt.hookimpl
        def generate(self, tokenizer, prompts, samples):
            row = tokenizer.encode("[DONE] Score: 5", add_special_tokens=False)
            completions = dt.Ragged.from_rows([row] * len(prompts))
            return dt.Generated(completions, completions.map(lambda t: -0.1 * t), ("stop",) * len(completions))

    tiny = {"hidden": 16, "layers": 1, "heads": 2, "context": 2048}
    result = talk(options, "a", voice={"agent": {"tiny": tiny, "generator": Done()}})[-1]
    assert (result.reward, result.terminated) == (0.5, True)


def test_broken_files_and_tasks_of_elsewhere_are_told(options, tmp_path):
    """With the line, or with what is lacking."""
    path = tmp_path / "scenarios.jsonl"
    path.write_text('{"opening": "a", "scenario": "b"}\n{"opening": "a"}\n')
    with pytest.raises(DataError, match="line 2 cannot be read"):
        LanguageModel(**{**options, "path": str(path)}).tasks("train")
    path.write_text("")
    with pytest.raises(DataError, match="has no scenarios"):
        LanguageModel(**{**options, "path": str(path)}).tasks("train")
    with pytest.raises(DataError, match="needs the columns 'opening' and 'scenario'"):
        talk(options, task=Task.of("hello", "lost"))


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"role": "You are a user."}, "role must hold"),
        ({"voice": {}}, "give either url and model, or agent"),
        ({"voice": {"url": "http://x", "modle": "m"}}, "did you mean 'model'"),
        ({"max_turns": 0}, "max_turns"),
        ({"done": ""}, "done"),
    ],
)
def test_options_that_do_not_fit_are_refused(options, more, message):
    """Before anybody speaks."""
    with pytest.raises(OptionError, match=message):
        environments.llm(**{**options, **more})
