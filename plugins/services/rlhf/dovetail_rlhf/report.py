"""One page that tells how a pipeline went: figures, curves and samples of each stage, from its files alone."""

from __future__ import annotations

import json
import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any

import attrs
from markupsafe import Markup

from dovetail_rlhf.curves import curve
from dovetail_rlhf.stages import Plan, Stage, StepConfig

SAMPLES = 4  # of each kind that are shown
TEXT = 600  # characters of a sample
#: What is looked at first; the other metrics are folded away.
FIRST = re.compile(
    r"loss|reward|(reward|eval|accuracy|kl|win_rate)/.+|.+/(accuracy|margin|kl|nll|explained_variance)"
    r"|entropy|completion_length|invalid"
)


@attrs.frozen
class Section:
    """A stage as the page shows it."""

    name: str
    about: str
    status: str
    seconds: float | None
    figures: Mapping[str, Any]
    curves: Sequence[tuple[str, Markup]]
    further: Sequence[tuple[str, Markup]]
    samples: Sequence[Mapping[str, Any]]
    error: str


def page(plan: Plan, failed: Mapping[str, str]) -> str:
    """The whole page as HTML."""
    import jinja2

    sections = [_section(stage, failed.get(stage.name, "")) for stage in plan.stages]
    template = (files("dovetail_rlhf") / "report.html.j2").read_text(encoding="utf-8")
    environment = jinja2.Environment(
        autoescape=True, trim_blocks=True, lstrip_blocks=True, undefined=jinja2.StrictUndefined
    )
    return environment.from_string(template).render(title=plan.directory.name, sections=sections, shown=_shown)


def _shown(value: Any) -> str:
    if value is None:
        return "none valid"
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _section(stage: Stage, error: str) -> Section:
    done = _read(stage.folder / "stage.json")
    status = stage.fate if stage.config is None else "failed" if error else "done" if done else "not done"
    metrics = _metrics(stage.folder / "metrics.jsonl")
    names = sorted(metrics, key=lambda name: (not FIRST.fullmatch(name), name))
    drawn = {name: curve(name, metrics[name]) for name in names if len(metrics[name]) > 1}
    first = [each for each in drawn.items() if FIRST.fullmatch(each[0])]
    further = [each for each in drawn.items() if not FIRST.fullmatch(each[0])]
    figures = done.get("figures", {name: points[-1][1] for name, points in metrics.items()})
    return Section(
        stage.name, stage.about, status, done.get("seconds"), figures, first, further, _samples(stage), error
    )  # fmt: skip


def _metrics(path: Path) -> dict[str, list[tuple[int, float]]]:
    """Each metric by step."""
    found: dict[str, list[tuple[int, float]]] = defaultdict(list)
    for line in _lines(path):
        for name, value in line["metrics"].items():
            if value is not None:
                found[name].append((line["step"], value))
    return found


def _samples(stage: Stage) -> list[dict[str, Any]]:
    """Tables of a title, the names of columns, and rows of texts."""
    if isinstance(stage.config, StepConfig):
        return _of_step(stage)
    steps = sorted((stage.folder / "rollouts").glob("step-*.jsonl"))
    chosen = dict.fromkeys([steps[0], steps[-1]] if steps else [])
    columns = ("prompt", "completion", "reward")
    titles = {file: f"samples of step {int(file.stem.removeprefix('step-'))}" for file in chosen}
    return [_table(title, columns, _lines(file, SAMPLES)) for file, title in titles.items()]


def _of_step(stage: Stage) -> list[dict[str, Any]]:
    answers = [_lines(file, SAMPLES) for file in sorted(stage.folder.glob("answers-*.jsonl"))]
    if answers and all(answers):
        rows = [
            {"prompt": lines[0]["prompt"], **{line["model"]: _answer(line) for line in lines}}
            for lines in zip(*answers, strict=False)
        ]
        return [_table("the same prompts, each with its total reward", tuple(rows[0]), rows)]
    made = _lines(stage.folder / "rows.jsonl", SAMPLES)
    return [_table("rows", tuple(made[0]), made)] if made else []


def _answer(line: Mapping[str, Any]) -> str:
    return f"{line['completions'][0]}\n[{_shown(line['reward'][0])}]"


def _table(title: str, columns: Sequence[str], rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    return {"title": title, "columns": columns, "rows": [[_text(row.get(name)) for name in columns] for row in rows]}


def _text(value: Any) -> str:
    if isinstance(value, list) and value and isinstance(value[0], dict) and "content" in value[0]:
        value = "\n".join(f"[{turn['role']}] {turn['content']}" for turn in value)
    text = value if isinstance(value, str) else _shown(value)
    return text if len(text) <= TEXT else f"{text[:TEXT]} …"


def _read(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}


def _lines(path: Path, most: int | None = None) -> list[dict[str, Any]]:
    """Whole lines; a process that was killed may have left half of one."""
    if not path.exists():
        return []
    *lines, _cut_short = path.read_text(encoding="utf-8").split("\n")
    return [json.loads(line) for line in lines[:most]]
