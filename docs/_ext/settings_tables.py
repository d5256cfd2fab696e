"""The tables of docs/reference/configuration.md, made from the settings classes and the comments beside their fields.

python docs/_ext/settings_tables.py    writes the page anew; tests/docs checks that it is up to date
"""

from __future__ import annotations

import inspect
import re
from pathlib import Path
from typing import Any

import attrs

from dovetail.agents.agent import Agent
from dovetail.parts import argument_docs, options_of
from dovetail.sampling import Sampling
from dovetail.settings import LoraSettings, OptimizerSettings, TinySettings, TrainSettings
from dovetail_trainer.cli.describe import type_text
from dovetail_trainer.config.schema import AgentConfig, RunConfig
from dovetail_trainer.settings import DataSettings

PAGE = Path(__file__).parents[1] / "reference" / "configuration.md"
MARK = "<!-- written by docs/_ext/settings_tables.py from here on -->\n"
SECTIONS: dict[str, tuple[str, type]] = {
    "The run": ("At the top level, beside the parts.", TrainSettings),
    "`policy`, and each of `agents`": ("The options of `dt.Agent`; a part is written as under `rewards`.", AgentConfig),
    "`policy.optimizer`": ("How an agent learns.", OptimizerSettings),
    "`policy.lora`": ("Low-rank adapters.", LoraSettings),
    "`policy.tiny`": ("A small model with random weights, in the place of `model`.", TinySettings),
    "`sampling`": ("How completions are drawn; a recipe's `generate` node may override single ones.", Sampling),
    "`data`": ("For recipes that read rows, such as `sft`. A string is the path.", DataSettings),
}
TOP = {
    "algorithm": "the recipe and its options: `{use: grpo, group_size: 8}`; `preset: verl` takes another system's defaults",
    "policy": "the agent that learns",
    "steps": "how many steps the run takes",
    "agents": "further agents by input name, such as `value_model`; a reference that is not given is the policy at the start",
    "environment": "gives tasks, and scores completions",
    "data": "rows of an offline recipe; or, without an environment, of one that samples: `prompt`, other columns are for rewards",
    "rewards": "a list of parts: a name, or `{use: name, weight: 0.1, name: label, process: true, …options}`; "
    "a weight is a number or a part of kind `weights`",
    "loggers": "a list of parts",
    "extensions": "a list of parts",
    "run_dir": "the run's folder; by default `runs/<recipe>-<time>`",
}


def tables() -> str:
    """All tables as Markdown."""
    top = "\n".join(f"| `{name}` | {text} |" for name, text in TOP.items())
    assert set(TOP) == {field.name for field in attrs.fields(RunConfig)} - {"settings"}
    parts = [f"## The parts\n\n| key | meaning |\n|---|---|\n{top}\n"]
    for title, (about, cls) in SECTIONS.items():
        parts.append(f"## {title}\n\n{about}\n\n| key | type | default | meaning |\n|---|---|---|---|\n{_rows(cls)}\n")
    return "\n".join(parts)


def _rows(cls: type) -> str:
    docs = _docs(Agent) if cls is AgentConfig else _docs(cls)
    docs.setdefault("model", docs.get("name_or_path", ""))
    lines = []
    for option in options_of(cls):
        default = "required" if option.required else f"`{_shown(option.default)}`"
        kind = re.sub(r"\b[a-z_.]+\.(?=[A-Z])", "", type_text(option.type)).replace("|", "\\|")
        lines.append(f"| `{option.name}` | {kind} | {default} | {docs.get(option.name, '')} |")
    return "\n".join(lines)


def _shown(default: Any) -> str:
    return "the defaults below" if attrs.has(type(default)) else repr(default)


def _docs(cls: Any) -> dict[str, str]:
    """What a docstring's ``Args:`` or the ``#:`` comments on and above the fields say."""
    source = inspect.getsource(cls)
    found = argument_docs(inspect.getdoc(cls) or "")
    above: list[str] = []
    for line in source.splitlines():
        comment = line.partition("#:")[2].strip()
        if line.strip().startswith("#:"):
            above.append(comment)
        elif field := re.match(r"\s+(\w+): ", line):
            found.setdefault(field[1], " ".join([*above, comment]).strip())
            above = []
        elif comment and found:
            last = list(found)[-1]
            found[last] = found[last] or comment
    return {name: text.replace("``", "`") for name, text in found.items()}


def written() -> str:
    """The page as it should be."""
    return PAGE.read_text(encoding="utf-8").partition(MARK)[0] + MARK + "\n" + tables()


if __name__ == "__main__":
    PAGE.write_text(written(), encoding="utf-8")
