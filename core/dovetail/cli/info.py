"""Versions, devices and tools of this machine."""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import os
import platform
import shutil
from typing import Any

_LIBRARIES = ("dovetail-core", "torch", "transformers", "peft", "datasets", "cupy", "pluggy", "attrs", "cattrs")


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--json", action="store_true", help="machine-readable")


def run(arguments: argparse.Namespace) -> int:
    """Print what a bug report should hold."""
    facts = {
        "python": platform.python_version(),
        "system": platform.platform(),
        "cores": os.cpu_count(),
        **{name: _version(name) for name in _LIBRARIES},
        **_devices(),
        "compiler": next((path for name in ("c++", "g++", "clang++") if (path := shutil.which(name))), "none"),
    }
    if arguments.json:
        print(json.dumps(facts, indent=2))
    else:
        width = max(map(len, facts))
        print("\n".join(f"{name.ljust(width)}  {value}" for name, value in facts.items()))
    return 0


def _version(name: str) -> str:
    for candidate in (name, f"{name}-cuda12x", f"{name}-cuda13x"):
        try:
            return importlib.metadata.version(candidate)
        except importlib.metadata.PackageNotFoundError:
            continue
    return "not installed"


def _devices() -> dict[str, Any]:
    import torch

    cuda = torch.cuda.get_device_name() if torch.cuda.is_available() else "none"
    return {"threads": torch.get_num_threads(), "cuda device": cuda}
