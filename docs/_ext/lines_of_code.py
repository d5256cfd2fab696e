"""docs/reference/lines.md: how much code an algorithm is, counted, beside TRL's file for the same algorithm.

python docs/_ext/lines_of_code.py    writes the page anew; tests/docs checks that it is up to date
"""

from __future__ import annotations

import ast
import importlib
import importlib.metadata
import importlib.util
import inspect
from pathlib import Path
from typing import Any

from dovetail import recipes
from dovetail.graph.recipe import Recipe

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "reference" / "lines.md"
ALGORITHMS = ROOT / "plugins" / "algorithms"
INSIDE = "trainer/grpo_trainer.py"  # of which several are a branch
PEERS = {
    "grpo": INSIDE,
    **dict.fromkeys(("cispo", "dapo", "dr-grpo", "gdpo", "gspo", "sapo"), INSIDE),
    "gmpo": "experimental/gmpo/gmpo_trainer.py",
    "rloo": "trainer/rloo_trainer.py",
    "dpo": "trainer/dpo_trainer.py",
    "kto": "trainer/kto_trainer.py",
    "cpo": "experimental/cpo/cpo_trainer.py",
    "simpo": "experimental/cpo/cpo_trainer.py",
    "orpo": "experimental/orpo/orpo_trainer.py",
    "online-dpo": "experimental/online_dpo/online_dpo_trainer.py",
    "reward-model": "trainer/reward_trainer.py",
    "sft": "trainer/sft_trainer.py",
    "gkd": "experimental/gkd/gkd_trainer.py",
}


def own_lines(recipe: Recipe) -> int:
    """``wc -l`` of the recipe's function, and of each file that its parts and operations need and its base does not."""
    files = needed(recipe) - (needed(recipe.base) if recipe.base else set())
    return len(inspect.getsourcelines(recipe.function)[0]) + sum(map(_count, files))


def needed(recipe: Recipe) -> set[Path]:
    """Files of parts and operations, with all that they import of algorithms; not those that hold recipes."""
    modules = set[str]()
    for node in recipe.trace():
        made_by: Any = type(node.op.part.instance) if node.op.part else node.op.function
        if made_by is not None and made_by.__module__ != recipe.function.__module__:
            _add(made_by.__module__, modules)
    return {Path(inspect.getfile(importlib.import_module(module))) for module in modules}


def _add(module: str, found: set[str]) -> None:
    """A module of an algorithm, and what it imports."""
    file = Path(inspect.getfile(importlib.import_module(module)))
    if module in found or file.parents[2] != ALGORITHMS:
        return
    found.add(module)
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("dovetail_"):
            _add(str(node.module), found)


def _count(file: Path) -> int:
    return file.read_text(encoding="utf-8").count("\n")


def base_of(recipe: Recipe) -> str:
    return f"`{recipe.base.name.replace('_', '-')}`" if recipe.base else "–"


def peer_lines() -> dict[str, int]:
    """Of each file of PEERS, in the installed TRL."""
    found = importlib.util.find_spec("trl")
    assert found is not None
    assert found.origin is not None
    return {file: _count(Path(found.origin).parent / file) for file in PEERS.values()}


def own_rows() -> dict[str, str]:
    """The part of each row that is ours, by recipe; presets of other systems are none of their own."""
    rows = {}
    for name in sorted(recipes):
        recipe = recipes[name]
        package = recipe.function.__module__.partition(".")[0]
        if package.startswith("dovetail_") and "presets" not in recipe.function.__module__:
            rows[name] = f"| `{name}` | {base_of(recipe)} | {own_lines(recipe)} |"
    return rows


def written() -> str:
    """The page."""
    version, peers = importlib.metadata.version("trl"), peer_lines()
    lines = [
        "# Lines of code",
        "",
        "How much code an algorithm is: the recipe's function, and every file that its parts and operations need and the",
        "algorithm that it is derived from does not, by `wc -l`, docstrings and blank lines included. A file that several",
        f"algorithms share counts for each of them. Beside it the trainer of TRL {version} for the same algorithm, without",
        "its configuration; several are branches of one file. What they share counts nowhere: our core and trainer, and",
        "transformers' trainer. The two are not alike: a trainer of TRL also generates, scores and logs.",
        "Written by `python docs/_ext/lines_of_code.py`; a test counts again.",
        "",
        "| algorithm | derived from | own lines | TRL's file | its lines |",
        "|---|---|---|---|---|",
    ]
    for name, row in own_rows().items():
        peer = PEERS.get(name)
        lines.append(f"{row} `{peer}` | {peers[peer]} |" if peer else f"{row} – | – |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    PAGE.write_text(written(), encoding="utf-8")
