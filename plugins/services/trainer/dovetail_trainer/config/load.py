"""Reading configuration files: YAML 1.2, TOML, JSON, or a Python file that defines ``config``; same words in each."""

from __future__ import annotations

import json
import re
import runpy
import tomllib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from dovetail.errors import ConfigError, UserError
from dovetail_trainer.config.schema import Locate, RunConfig, parse_path, read_mapping, show
from dovetail_trainer.config.schema import Path as ConfigPath

_YAML = (".yaml", ".yml")


def load(path: str | Path, overrides: Iterable[str] = ()) -> RunConfig:
    """Read and check a file, whose suffix tells the format. ``overrides`` are as for :func:`parse_override`.

    Raises:
        ConfigError: With every mistake, its path and its line.
        UserError: The file cannot be read.
    """
    return read_mapping(*read_file(path, overrides), Path(path).parent)


def read_file(path: str | Path, overrides: Iterable[str] = ()) -> tuple[Any, Locate]:
    """What a file says, overrides included and unchecked, and a function from a path in it to its place."""
    file = Path(path)
    raw, text = _read(file)
    line_of = _marked_line if file.suffix.lower() in _YAML else _searched_line
    overridden = {}
    for override in overrides:
        at, value = parse_override(override)
        overridden[at] = f"--set {override}"
        raw = _put(raw, at, value, overridden[at])

    def place(path: ConfigPath) -> str:
        causes = [override for at, override in overridden.items() if path[: len(at)] == at]
        return causes[-1] if causes else f"{file.name}:{line_of(text, path)}"

    return raw, place


def parse_override(text: str) -> tuple[ConfigPath, Any]:
    """``algorithm.group_size=16`` or ``rewards[0].weight=2`` as path and value, which is YAML; else a ConfigError."""
    name, equals, value = text.partition("=")
    path = parse_path(name)
    if not equals or not path:
        raise ConfigError([f"--set needs path=value, got {text!r}"])
    return path, _parse_yaml(value, f"--set {text}")


def _put(here: Any, path: ConfigPath, value: Any, place: str) -> Any:
    """``here`` with a value at a path; missing mappings are made, and the bare name of a part becomes one."""
    if not path:
        return value
    step, rest = path[0], path[1:]
    if isinstance(here, list):
        if not isinstance(step, int) or step >= len(here):
            raise ConfigError([f"there is no entry {step}  at ({place})"])
        return [*here[:step], _put(here[step], rest, value, place), *here[step + 1 :]]
    if here is None or isinstance(here, str):
        here = {"use": here} if here else {}
    if not isinstance(here, Mapping):
        raise ConfigError([f"{here!r} has nothing below it, so no {show(path)!r}  at ({place})"])
    return {**here, step: _put(here.get(step), rest, value, place)}


def _read(file: Path) -> tuple[Any, str]:
    """What a file says, and its text."""
    suffix = file.suffix.lower()
    try:
        text = file.read_text(encoding="utf-8")
        if suffix in _YAML:
            return _parse_yaml(text, file.name) or {}, text
        if suffix in (".toml", ".json"):
            return (tomllib.loads if suffix == ".toml" else json.loads)(text), text
    except OSError as error:
        raise UserError(f"the configuration {file} cannot be read: {error.strerror}") from error
    except ValueError as error:
        raise ConfigError([f"{file}: {error}"]) from error
    if suffix != ".py":
        raise UserError(f"{file} has no known format", hint="one of .yaml, .toml, .json, .py")
    defined = runpy.run_path(str(file))
    if "config" not in defined:
        raise ConfigError([f"{file} defines no `config`"])
    return defined["config"], text


def _parse_yaml(text: str, place: str) -> Any:
    from ruamel.yaml import YAML
    from ruamel.yaml.error import YAMLError

    try:
        return YAML(typ="safe", pure=True).load(text)
    except YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = f":{mark.line + 1}" if mark and "\n" in text else ""
        raise ConfigError([f"{getattr(error, 'problem', None) or error}  at ({place}{line})"]) from error


def _marked_line(text: str, path: ConfigPath) -> int:
    from ruamel.yaml import YAML

    here, line = YAML().load(text), 0
    for step in path:
        try:
            line, here = here.lc.key(step)[0], here[step]
        except (AttributeError, KeyError, IndexError, TypeError):
            break
    return line + 1


def _searched_line(text: str, path: ConfigPath) -> int:
    """Best effort for formats whose readers keep no line numbers: where the keys of the path follow one another."""
    keys = [rf"\b{re.escape(step)}[\"']?\s*[:=.\]]" for step in path if isinstance(step, str)]
    found = re.search(".*?".join(keys), text, re.DOTALL)
    return text.count("\n", 0, found.end()) + 1 if found else 1
