"""How long does `dovetail eval` take on HumanEval beside the model? A generator answers with the canonical solutions.

    python benchmarks/humaneval.py HumanEval.jsonl.gz

The whole command is timed, with starting Python, tokenizing, rendering and judging in the sandbox. With empty answers
it must find none. Goal on two cores: all 164 in 10 s.
"""

from __future__ import annotations

import argparse
import gzip
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import attrs

import dovetail as dt


@attrs.frozen
class Oracle:
    """Answers with the canonical solution, or with nothing.

    Args:
        path: HumanEval's file.
        empty: Whether to answer with nothing.
    """

    path: str
    empty: bool = False

    @dt.hookimpl
    def generate(self, model: Any, tokenizer: Any, prompts: Any, samples: int, sampling: Any, seeds: Any) -> Any:
        import torch

        problems = read(self.path)
        answers = []
        for prompt in prompts.tolist():
            asked = tokenizer.decode(prompt)
            (problem,) = (each for each in problems if each["prompt"].strip() in asked)
            text = "" if self.empty else f"```python\n{problem['prompt']}{problem['canonical_solution']}\n```"
            ids = tokenizer(text, add_special_tokens=False)["input_ids"]
            answers += [[*ids, tokenizer.eos_token_id]] * samples
        rows = dt.Ragged.from_rows(answers, dtype=torch.int64)
        return dt.Generated(rows, rows.with_values(torch.zeros(len(rows.values))), ("stop",) * len(answers))


def read(path: str) -> list[dict[str, Any]]:
    with gzip.open(path, "rt", encoding="utf-8") as file:
        return [json.loads(line) for line in file]


def config(path: str, empty: bool) -> dict[str, Any]:
    """Of a run whose tiny tokenizer knows every character of the problems."""
    texts = "".join(problem["prompt"] + problem["canonical_solution"] for problem in read(path))
    return {
        "algorithm": "grpo",
        "environment": {"use": "code", "path": path, "held_out": 0.0},
        "policy": {
            "tiny": {
                "characters": "".join(sorted({*texts, "`"})),
                "hidden": 16,
                "layers": 1,
                "heads": 2,
                "context": 8192,
            },
            "generator": {"use": f"{Path(__file__).resolve()}:Oracle", "path": path, "empty": empty},
        },
        "sampling": {"max_tokens": 2000},
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("path", help="HumanEval.jsonl.gz, of github.com/openai/human-eval")
    path = str(Path(parser.parse_args().path).resolve())
    for empty in (False, True):
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder) / "run.json"
            file.write_text(json.dumps(config(path, empty)), encoding="utf-8")
            started = time.perf_counter()
            command = [Path(sys.executable).with_name("dovetail"), "eval", file, "--split", "train"]
            subprocess.run(command, check=True)
            print(f"{'empty' if empty else 'canonical'} answers: {time.perf_counter() - started:.1f} s", flush=True)


if __name__ == "__main__":
    main()
