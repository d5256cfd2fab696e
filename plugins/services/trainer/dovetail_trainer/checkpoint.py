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

import numpy
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from dovetail.agents.agent import Agent
from dovetail.errors import CheckpointError

_MANIFEST = "manifest.json"


def save(folder: Path, step: int, files: Mapping[str, Any], lock: Mapping[str, Any], keep: int) -> Path:
    """Write a checkpoint into the folder of all, and drop all but the newest ``keep``.

    ``files`` are name to content: ``*.safetensors`` a mapping of tensors, ``*.pt`` anything that torch writes. A disk
    that is full or not writable is a CheckpointError, and earlier checkpoints are untouched.
    """
    target, aside = folder / f"step-{step:06d}", folder / f".writing-{step:06d}"
    shutil.rmtree(aside, ignore_errors=True)
    try:
        aside.mkdir(parents=True)
        for name, content in files.items():
            _write(aside / name, content)
        manifest = {"step": step, "lock": lock, "files": {name: _digest(aside / name) for name in files}}
        (aside / _MANIFEST).write_text(json.dumps(manifest, indent=2), encoding="utf-8")
        for path in (*aside.iterdir(), aside):
            _sync(path)
        shutil.rmtree(target, ignore_errors=True)
        os.replace(aside, target)
        _sync(folder)
    except (OSError, RuntimeError, SafetensorError) as error:
        shutil.rmtree(aside, ignore_errors=True)
        problem = f"the checkpoint of step {step} could not be written: {error}"
        hint = "make room, then continue with `dovetail train --resume`; earlier checkpoints are intact"
        raise CheckpointError(problem, where=[str(target)], hint=hint) from error
    for old in found(folder)[:-keep]:
        shutil.rmtree(old, ignore_errors=True)
    return target


def found(folder: Path) -> list[Path]:
    """Checkpoints from the oldest to the newest."""
    return sorted(folder.glob("step-*"))


def load(path: Path) -> dict[str, Any]:
    """The ``step``, the ``lock``, and file name to content. A file that is not as it was is a CheckpointError."""
    hint = f"remove {path} to resume from the checkpoint before it"
    try:
        manifest = json.loads((path / _MANIFEST).read_text(encoding="utf-8"))
        for name, digest in manifest["files"].items():
            if _digest(path / name) != digest:
                raise CheckpointError(f"the checkpoint file {path / name} is damaged or cut short", hint=hint)
        return {**manifest, **{name: _read(path / name) for name in manifest["files"]}}
    except (OSError, ValueError, KeyError) as error:
        raise CheckpointError(f"the checkpoint {path} cannot be read: {error}", hint=hint) from error


def agent_files(agents: Mapping[str, Agent]) -> dict[str, Any]:
    """Weights and optimizer state of those that learn, as files of a checkpoint."""
    files: dict[str, Any] = {}
    for name, agent in _learners(agents).items():
        files[f"{name}.safetensors"] = agent.named_parameters()
        files[f"{name}.pt"] = {"learning": agent.learning.state_dict(), "version": agent.version}
    return files


def _learners(agents: Mapping[str, Agent]) -> dict[str, Agent]:
    """Those that learn, each by the first of its names."""
    first = {id(agent): name for name, agent in reversed(list(agents.items())) if agent.trainable}
    return {name: agent for name, agent in agents.items() if first.get(id(agent)) == name}


@torch.no_grad()
def restore_agents(agents: Mapping[str, Agent], saved: Mapping[str, Any]) -> None:
    """The other way round. An agent or a tensor that is missing or of another shape is a CheckpointError."""
    for name, agent in _learners(agents).items():
        if f"{name}.safetensors" not in saved:
            raise CheckpointError(f"the checkpoint holds no agent {name!r}")
        tensors, parameters = saved[f"{name}.safetensors"], agent.named_parameters()
        if odd := sorted(tensors.keys() ^ parameters.keys()):
            raise CheckpointError(f"the checkpoint does not fit the agent {name!r}: {odd[0]} is on one side only")
        for key, parameter in parameters.items():
            if parameter.shape != tensors[key].shape:
                raise CheckpointError(f"{name}.{key} has another shape in the checkpoint")
            parameter.copy_(tensors[key])
        agent.learning.load_state_dict(saved[f"{name}.pt"]["learning"])
        agent.version = saved[f"{name}.pt"]["version"]


def random_state() -> dict[str, Any]:
    """Of the global generators, for parts that draw from them."""
    return {"torch": torch.get_rng_state(), "python": random.getstate(), "numpy": numpy.random.get_state(legacy=False)}


def restore_random_state(state: Mapping[str, Any]) -> None:
    torch.set_rng_state(state["torch"])
    random.setstate(state["python"])
    numpy.random.set_state(state["numpy"])


def _write(path: Path, content: Any) -> None:
    if path.suffix == ".safetensors":
        save_file({name: tensor.detach().contiguous() for name, tensor in content.items()}, path)
    else:
        torch.save(content, path)


def _read(path: Path) -> Any:
    # Our own file, its digest just checked against the manifest beside it.
    return load_file(path) if path.suffix == ".safetensors" else torch.load(path, weights_only=False)


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
