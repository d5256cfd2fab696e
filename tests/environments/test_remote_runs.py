"""A run cannot tell whether its environment is remote."""

from __future__ import annotations

import importlib.util
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
import trustme

import dovetail as dt

SERVER = Path(__file__).with_name("flaky.py")
OPTIONS = {
    "math": {"digits": 1, "final_answer": "last_number", "symbolic": False, "notation": "plain"},
    "gym": {
        "id": "FrozenLake-v1",
        "actions": ["left", "down", "right", "up"],
        "max_turns": 6,
        "size": 4,
        "test_size": 2,
    },
    "tools": {"tools": ["calculator", "files"], "call_format": "terse", "levels": ["one_step"], "max_turns": 3},
    "debate": {},
}


@pytest.fixture(scope="module")
def secured(tmp_path_factory):
    """A server with TLS and a token, and the options that reach it."""
    folder = tmp_path_factory.mktemp("server")
    authority = trustme.CA()
    certificate = authority.issue_cert("localhost", "127.0.0.1")
    authority.cert_pem.write_to_path(folder / "ca.pem")
    certificate.private_key_and_cert_chain_pem.write_to_path(folder / "server.pem")
    (folder / "token").write_text("open sesame")
    config = {
        "environments": [*({"use": name, **options} for name, options in OPTIONS.items()), {"use": "flaky"}],
        "address": "127.0.0.1:0",
        **dict.fromkeys(("certificate", "key"), str(folder / "server.pem")),
        "token_file": str(folder / "token"),
    }
    (folder / "serve.json").write_text(json.dumps(config))
    command = [sys.executable, str(SERVER), str(folder / "serve.json")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        address = process.stdout.readline().split()[-1]
        yield {"address": address, "ca": str(folder / "ca.pem"), "token_file": str(folder / "token")}
        process.kill()


def trained(folder, environment):
    """What a short run writes: metrics that tell no time, rollouts, and samples without a score."""
    agent = dt.Agent.tiny(
        hidden=16, layers=1, heads=2, seed=1, context=2048, optimizer=dt.OptimizerSettings(lr=1e-2), trainable=True
    )  # fmt: skip
    trainer = dt.Trainer(
        dt.recipes["grpo"](group_size=4), policy=agent, environment=environment, run_dir=folder, batch_size=4,
        sampling=dt.Sampling(max_tokens=12), max_invalid=1.0, evaluate_every=2, evaluate_tasks=8,
        # A sum's last bits depend on how many rows are computed together, so batches must not depend on answers' speed.
        episodes={"patience": None},
    )  # fmt: skip
    trainer.fit(3)
    told = [
        {
            name: value
            for name, value in json.loads(line)["metrics"].items()
            if not re.search(r"time|/s$|per_second|rss|memory|/batch$", name)
        }
        for line in (folder / "metrics.jsonl").read_text().splitlines()
    ]
    files = sorted(path.relative_to(folder) for kind in ("rollouts", "invalid") for path in folder.glob(f"{kind}/*"))
    # The place of an error is a line of the client's.
    texts = {str(file): re.sub(r" at /[^\"]*", "", (folder / file).read_text()) for file in files}
    return told, texts, (folder / "final/model.safetensors").read_bytes()


@pytest.mark.parametrize("name", [*OPTIONS, "flaky"])
def test_a_remote_run_is_bit_identical_to_a_local_one(tmp_path, secured, name):
    """Tasks in their order, turns, rewards, reasons of invalid samples, metrics, weights."""
    if name != "flaky":
        local = dt.environments[name](**OPTIONS[name])
    else:
        spec = importlib.util.spec_from_file_location("flaky", SERVER)
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        local = dt.environments.register("flaky", module.Flaky) and dt.environments.flaky()
    here = trained(tmp_path / "here", local)
    there = trained(tmp_path / "there", dt.environments.remote(environment=name, name=name, **secured))
    for mine, theirs in zip(here, there, strict=True):
        assert mine == theirs
    if name == "tools":
        assert any('"role": "tool"' in text for text in here[1].values()), "no tool was called"
    if name == "flaky":
        assert any("ValueError: a 3 in" in text for file, text in here[1].items() if file.startswith("invalid"))
        assert {json.loads(line)["reward"] for line in here[1]["rollouts/step-000001.jsonl"].splitlines()} - {0.0, None}
