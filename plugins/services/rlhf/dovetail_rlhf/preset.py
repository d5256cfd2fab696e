"""Ready pipelines, and how a user's words go over theirs."""

from __future__ import annotations

from collections.abc import Mapping
from importlib.resources import files
from typing import Any

from dovetail.errors import UserError, did_you_mean


def presets() -> list[str]:
    """The pipelines that come with this distribution."""
    folder = files("dovetail_rlhf") / "presets"
    return sorted(file.name.removesuffix(".yaml") for file in folder.iterdir() if file.name.endswith(".yaml"))


def preset_text(name: str) -> str:
    """The file of a preset; a UserError if there is none of that name."""
    if name not in presets():
        raise UserError(f"no pipeline is called {name!r}", hint=did_you_mean(name, presets()))
    return (files("dovetail_rlhf") / "presets" / f"{name}.yaml").read_text(encoding="utf-8")


def merged(below: Any, above: Any) -> Any:
    """``above`` where both say something, word by word; a reference is one word. What is null above is taken out."""
    if not isinstance(below, Mapping) or not isinstance(above, Mapping) or is_reference(below) or is_reference(above):
        return above
    both = {**below, **{key: merged(below.get(key), value) for key, value in above.items()}}
    return {key: value for key, value in both.items() if value is not None}


def is_reference(value: Any) -> bool:
    """Whether it is ``{stage: NAME}`` or ``{input: NAME}``."""
    return isinstance(value, Mapping) and len(value) == 1 and next(iter(value)) in ("stage", "input")
