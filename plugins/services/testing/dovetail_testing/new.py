"""Write a plugin package from a template: a few files that install, pass the kit and show in the list of plugins."""

from __future__ import annotations

import argparse
import json
import keyword
import re
from importlib.resources import files
from pathlib import Path
from string import Template

from dovetail import catalog
from dovetail.errors import UserError, did_you_mean

TEMPLATES = {
    "kernel": "rewards",
    "reward": "rewards",
    "loss": "losses",
    "advantages": "advantages",
    "environment": "environments",
    "logger": "loggers",
}


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("kind", help=f"one of {', '.join(TEMPLATES)}")
    parser.add_argument("name", help="of the part: lower case, words joined by hyphens")
    parser.add_argument("--path", default=".", help="the folder in which the package's folder is made")


def run(arguments: argparse.Namespace) -> int:
    """Write the package.

    Raises:
        UserError: The kind or the name will not do, or the folder exists.
    """
    folder = write(arguments.kind, arguments.name, Path(arguments.path))
    print(f'wrote {folder}; next:\n  pip install -e "{folder}[test]"\n  pytest {folder}\n  dovetail plugins')
    return 0


def write(kind: str, name: str, parent: Path) -> Path:
    """Write the files and give their folder."""
    folder = parent / f"dovetail-{name}"
    _check(kind, name, folder)
    stem = name.replace("-", "_")
    words = {
        "name": name,
        "kind": kind,
        "kinds": TEMPLATES[kind],
        "module": f"dovetail_{stem}",
        "stem": stem,
        "cls": "".join(word.capitalize() for word in name.split("-")),
    }
    is_kernel = kind == "kernel"
    needed = ["dovetail-core>=0.1,<0.2", *(["dovetail-kernels>=0.1,<0.2"] if is_kernel else [])]
    tested = ["dovetail-testing>=0.1,<0.2", *(["nvidia-cuda-nvrtc-cu12>=12.8"] if is_kernel else []), "pytest"]
    words |= {"needed": json.dumps(needed), "tested": json.dumps(tested)}
    targets = {
        "pyproject.toml": "pyproject.toml",
        "README.md": "README.md",
        f"{kind}.py": f"dovetail_{stem}/__init__.py",
        f"{kind}_test.py": f"tests/test_{stem}.py",
    }
    if is_kernel:
        targets["kernel.cu"] = f"dovetail_{stem}/{stem}.cu"
    for template, target in targets.items():
        text = (files("dovetail_testing") / "templates" / f"{template}.txt").read_text(encoding="utf-8")
        path = folder / target
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(Template(text).substitute(words), encoding="utf-8")
    return folder


def _check(kind: str, name: str, folder: Path) -> None:
    if kind not in TEMPLATES:
        raise UserError(f"there is no template for {kind!r}", hint=did_you_mean(kind, TEMPLATES))
    if not re.fullmatch(r"[a-z][a-z0-9]*(-[a-z0-9]+)*", name) or keyword.iskeyword(name):
        hint = "lower-case letters and digits, words joined by hyphens"
        raise UserError(f"{name!r} is no name for a part", hint=hint)
    for entry in catalog.entries():
        if (entry.kind, entry.name) == (TEMPLATES[kind], name):
            raise UserError(f"{entry.distribution} already offers the {kind} {name!r}", hint="choose another name")
    if folder.exists():
        raise UserError(f"{folder} exists already", hint="remove it, or choose another name or --path")
