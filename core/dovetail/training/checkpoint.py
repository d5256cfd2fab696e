"""Checkpoints: written aside, synced, renamed. What is there under its name is whole."""

from __future__ import annotations

import hashlib
import json
import os
import random
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from dovetail.errors import CheckpointError

_MANIFEST = "manifest.json"


def save(folder: Path, step: int, files: Mapping[str, Any], keep: int) -> Path:
    """Write a checkpoint and drop the oldest ones.

    Args:
        folder: Of all checkpoints of the run.
        step: Steps done.
        files: Name to content: ``*.safetensors`` a mapping of tensors, ``*.json`` plain data, ``*.pt`` anything torch
            writes.
        keep: How many stay.

    Raises:
        CheckpointError: The disk is full or not writable; earlier checkpoints are untouched.
    """
    target, aside = folder / f"step-{step:06d}", folder / f".writing-{step:06d}"
    try:
        shutil.rmtree(aside, ignore_errors=True)
        aside.mkdir(parents=True)
        for name, content in files.items():
            _write(aside / name, content)
        manifest = {file.name: _digest(file) for file in sorted(aside.iterdir())}
        _write(aside / _MANIFEST, {"step": step, "files": manifest})
        for file in aside.iterdir():
            _sync(file)
        _sync(aside)
        shutil.rmtree(target, ignore_errors=True)
        os.replace(aside, target)
        _sync(folder)
    except (OSError, RuntimeError) as error:
        shutil.rmtree(aside, ignore_errors=True)
        raise CheckpointError(
            f"the checkpoint of step {step} could not be written: {error}",
            where=[str(target)],
            hint="make room, then continue with `dovetail train --resume`; earlier checkpoints are intact",
        ) from error
    for old in found(folder)[:-keep]:
        shutil.rmtree(old, ignore_errors=True)
    return target


def found(folder: Path) -> list[Path]:
    """Checkpoints from the oldest to the newest."""
    return sorted(folder.glob("step-*"))


def load(path: Path) -> dict[str, Any]:
    """Read a checkpoint back: file name to content.

    Raises:
        CheckpointError: A file is missing, cut short or changed.
    """
    try:
        manifest = json.loads((path / _MANIFEST).read_text(encoding="utf-8"))
        for name, digest in manifest["files"].items():
            if _digest(path / name) != digest:
                raise CheckpointError(
                    f"the checkpoint file {path / name} is damaged or cut short",
                    hint=f"remove {path} to resume from the checkpoint before it",
                )
        return {"step": manifest["step"], **{name: _read(path / name) for name in manifest["files"]}}
    except (OSError, ValueError, KeyError) as error:
        raise CheckpointError(
            f"the checkpoint {path} cannot be read: {error}",
            hint=f"remove {path} to resume from the checkpoint before it",
        ) from error


def random_state() -> dict[str, Any]:
    """Of the global generators, for parts that draw from them."""
    import numpy

    return {"torch": torch.get_rng_state(), "python": random.getstate(), "numpy": numpy.random.get_state(legacy=False)}


def restore_random_state(state: Mapping[str, Any]) -> None:
    import numpy

    torch.set_rng_state(state["torch"])
    random.setstate(state["python"])
    numpy.random.set_state(state["numpy"])


def _write(path: Path, content: Any) -> None:
    if path.suffix == ".safetensors":
        from safetensors.torch import save_file

        save_file({name: tensor.detach().contiguous() for name, tensor in content.items()}, path)
    elif path.suffix == ".json":
        path.write_text(json.dumps(content, indent=2, default=str), encoding="utf-8")
    else:
        torch.save(content, path)


def _read(path: Path) -> Any:
    if path.suffix == ".safetensors":
        from safetensors.torch import load_file

        return load_file(path)
    if path.suffix == ".json":
        return json.loads(path.read_text(encoding="utf-8"))
    # Our own file, its digest just checked against the manifest beside it.
    return torch.load(path, weights_only=False)


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
