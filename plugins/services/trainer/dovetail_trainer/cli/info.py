"""Versions, devices and tools of this machine."""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import os
import platform
import shutil
from collections.abc import Mapping

from dovetail import catalog
from dovetail.errors import DovetailError

_LIBRARIES = ("dovetail-core", "torch", "transformers", "peft", "datasets", "cupy", "pluggy", "attrs", "cattrs")


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--json", action="store_true", help="machine-readable")


def run(arguments: argparse.Namespace) -> int:
    """Print what a bug report should hold."""
    import torch

    facts = {
        "python": platform.python_version(),
        "system": platform.platform(),
        "cores": os.cpu_count(),
        **{name: _version(name) for name in _LIBRARIES},
        "threads": torch.get_num_threads(),
        "cuda device": torch.cuda.get_device_name() if torch.cuda.is_available() else "none",
        "compiler": next(filter(None, map(shutil.which, ("c++", "g++", "clang++"))), "none"),
        **_facts_of_plugins(),
    }
    width = max(map(len, facts))
    lines = "\n".join(f"{name.ljust(width)}  {value}" for name, value in facts.items())
    print(json.dumps(facts, indent=2) if arguments.json else lines)
    return 0


def _facts_of_plugins() -> Mapping[str, str]:
    """What installed distributions tell of this machine: entry points of the group ``dovetail.facts``, functions."""
    facts: dict[str, str] = {}
    for entry in catalog.entries():
        if entry.kind == "facts":
            try:
                facts.update(entry.load()())
            except DovetailError as error:  # a broken plugin belongs into a bug report too
                facts[entry.name] = error.what
    return facts


def _version(name: str) -> str:
    for candidate in (name, f"{name}-cuda12x", f"{name}-cuda13x"):
        try:
            return importlib.metadata.version(candidate)
        except importlib.metadata.PackageNotFoundError:
            continue
    return "not installed"
