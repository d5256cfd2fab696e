"""The ready pipelines with a judge, whole, against a real endpoint on a local port."""

import json
import re
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from dovetail_rlhf.pipeline import Pipeline
from dovetail_rlhf.reading import read

FENCED = re.compile(r"<text-([0-9a-f]{8})>\n(.*?)\n</text-\1>", re.S)
TINY = {"hidden": 16, "layers": 1, "heads": 2, "context": 64, "characters": "abcdefxyz:"}
FAST = {"optimizer": {"lr": 1.0e-2}}


class Handler(BaseHTTPRequestHandler):
    """A judge that likes the letter a and has nothing to say of an f; as a critic it wants an a in front."""

    def do_POST(self):
        prompt = json.loads(self.rfile.read(int(self.headers["content-length"])))["messages"][0]["content"]
        answers = [text for _, text in FENCED.findall(prompt)][1:]
        if "Rewrite" in prompt:
            said = "a" + prompt.partition("[assistant]")[2].split("\n")[0].strip()
        elif "Identify" in prompt:
            said = "There is no a in front."
        elif any("f" in answer for answer in answers):
            said = "I would rather not say."
        elif "Answer A" in prompt:
            first, second = (answer.count("a") for answer in answers)
            said = f"Verdict: {'A' if first > second else 'B' if second > first else 'tie'}"
        else:
            said = f"Score: {min(10, 1 + answers[0].count('a'))}"
        body = json.dumps({"choices": [{"message": {"content": said}}]}).encode()
        self.send_response(200)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        """Quietly."""


@pytest.fixture
def endpoint():
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield {"url": f"http://127.0.0.1:{server.server_port}/v1", "model": "critic"}
    server.shutdown()
    server.server_close()
    thread.join()


def write(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def rows(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


@pytest.fixture
def configured(tmp_path, endpoint):
    """configured(preset, stages) writes a tiny one with all inputs, and gives the plan."""
    prompts = [{"prompt": f"{letter}:"} for letter in "xyz"]
    answers = ("abca", "bcee", "aafe", "beac")
    demonstrations = [{**prompt, "completion": answer} for prompt in prompts for answer in answers]

    def do(preset, stages, **inputs):
        small = {"sampling": {"max_tokens": 6}, "batch_size": 4, "max_invalid": 1.0}
        given = {
            "demonstrations": write(tmp_path / "demonstrations.jsonl", demonstrations),
            "prompts": write(tmp_path / "prompts.jsonl", prompts),
            "held_out_prompts": write(tmp_path / "held-out.jsonl", [{"prompt": "xy:"}, {"prompt": "zy:"}]),
            "judge": {"use": "judge", "mode": "pairwise", **endpoint}, "examiner": {"use": "judge", **endpoint},
            "voice": {**endpoint, "max_tokens": 16}, **inputs,
        }  # fmt: skip
        words = {"use": preset, "inputs": given, "run_dir": str(tmp_path / "run"), "threads": 1}
        words["stages"] = {name: {**small, **said} for name, said in stages.items()}
        file = tmp_path / "pipeline.json"
        file.write_text(json.dumps(words))
        return read(file)

    return do


SFT = {"policy": {"model": None, "tiny": TINY, **FAST}, "steps": 20}
LATER = {"preferences": {"make": {"samples": 6}}, "dpo": {"policy": FAST, "steps": 2}, "evaluation": {}}


def test_a_judge_prefers_and_the_policy_learns_it(configured, tmp_path):
    """Judgements that could not be read prefer nothing; they are counted, and the reasons are in the folder."""
    found = Pipeline(configured("rlaif", {"sft": SFT, **LATER}), tell=lambda _: None).run()
    pairs = rows(tmp_path / "run" / "preferences" / "rows.jsonl")
    assert found["preferences"]["rows"] == len(pairs) > 0
    assert found["preferences"]["left_out/invalid judgements"] > 0
    assert not any("f" in pair["chosen"] + pair["rejected"] for pair in pairs)
    assert all(pair["chosen"].count("a") > pair["rejected"].count("a") for pair in pairs)
    reasons = [
        score["reason"] for file in (tmp_path / "run" / "preferences" / "invalid").iterdir()
        for row in rows(file) for score in row["rewards"].values()
    ]  # fmt: skip
    assert any("no verdict" in reason for reason in reasons)
    assert 0 <= found["evaluation"]["win_rate/dpo"] <= 1


def test_a_model_learns_the_revisions_of_its_own_answers(configured, tmp_path):
    """Critique, revision, imitation, preferences; the draft stays beside what was learnt."""
    import dovetail as dt

    model = str(dt.Agent.tiny(**TINY).save(tmp_path / "model"))
    plan = configured(
        "constitutional",
        {"drafts": {}, "critiques": {}, "revisions": {}, "sft": {"policy": FAST, "steps": 20}, **LATER},
        model=model,
    )
    found = Pipeline(plan, tell=lambda _: None).run()
    revised = rows(tmp_path / "run" / "revisions" / "rows.jsonl")
    assert all(row["completion"] == "a" + row["draft"].split("\n")[0].strip() for row in revised)
    assert {row["critique"] for row in revised} == {"There is no a in front."}
    assert found["sft"]["steps"] == 20
    assert {"reward/first", "reward/sft", "reward/dpo"} <= set(found["evaluation"])
