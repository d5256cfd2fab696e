"""Reading configuration files: YAML 1.2, TOML, JSON, or a Python file that defines ``config``; same words in each."""

from __future__ import annotations

import json
import re
import tomllib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from dovetail.config.schema import Checker, RunConfig
from dovetail.config.schema import Path as ConfigPath
from dovetail.errors import ConfigError, UserError


def load(path: str | Path, overrides: Iterable[str] = ()) -> RunConfig:
    """Read and check a file.

    Args:
        path: Its suffix tells the format.
        overrides: ``path=value``, such as ``algorithm.group_size=16`` or ``rewards.0.weight=2``; values are YAML.

    Raises:
        ConfigError: With every mistake, its path and its line.
        UserError: The file cannot be read.
    """
    file = Path(path)
    raw, locate = _read(file)
    overridden = {}
    for override in overrides:
        where = _apply(raw, override)
        overridden[where] = f"--set {override}"

    def place(at: ConfigPath) -> str:
        return overridden.get(at) or locate(at)

    return Checker(place).read(raw)


def read_mapping(raw: Mapping[str, Any]) -> RunConfig:
    """Check a configuration that is a mapping already."""
    return Checker().read(raw)


def _read(file: Path) -> tuple[Any, Any]:
    try:
        text = file.read_text(encoding="utf-8")
    except OSError as error:
        raise UserError(f"the configuration {file} cannot be read: {error.strerror}") from error
    suffix = file.suffix.lower()
    try:
        if suffix in (".yaml", ".yml"):
            return _yaml(text, file)
        if suffix == ".toml":
            return tomllib.loads(text), _search(text, file, r"^\s*{key}\s*=")
        if suffix == ".json":
            return json.loads(text), _search(text, file, r'"{key}"\s*:')
    except ValueError as error:
        raise ConfigError([f"{file}: {error}"]) from error
    if suffix == ".py":
        import runpy

        found = runpy.run_path(str(file)).get("config")
        if found is None:
            raise ConfigError([f"{file} defines no `config`"])
        return dict(found), _search(text, file, r'["\']?{key}["\']?\s*[:=]')
    raise UserError(f"{file} has no known format", hint="one of .yaml, .toml, .json, .py")


def _yaml(text: str, file: Path) -> tuple[Any, Any]:
    from ruamel.yaml import YAML
    from ruamel.yaml.error import MarkedYAMLError

    try:
        marked = YAML(typ="rt").load(text) or {}
    except MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line = f"{file.name}:{mark.line + 1}" if mark else file.name
        raise ConfigError([f"{error.problem or error}  at ({line})"]) from error

    def locate(path: ConfigPath) -> str:
        here: Any = marked
        line = 0
        for step in path:
            try:
                line = here.lc.item(step)[0] if isinstance(step, int) else here.lc.key(step)[0]
                here = here[step]
            except (AttributeError, KeyError, IndexError, TypeError):
                break
        return f"{file.name}:{line + 1}"

    return _plain(marked), locate


def _search(text: str, file: Path, pattern: str) -> Any:
    """Best effort for formats whose readers keep no line numbers: the line of the last key."""
    lines = text.splitlines()

    def locate(path: ConfigPath) -> str:
        for key in reversed([step for step in path if isinstance(step, str)]):
            expression = re.compile(pattern.replace("{key}", re.escape(key)))
            for number, line in enumerate(lines, start=1):
                if expression.search(line):
                    return f"{file.name}:{number}"
        return file.name

    return locate


def _plain(value: Any) -> Any:
    """ruamel's marked values as plain ones."""
    if isinstance(value, Mapping):
        return {str(key): _plain(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [_plain(inner) for inner in value]
    for kind in (bool, int, float, str):
        if isinstance(value, kind):
            return kind(value)
    return value


def _apply(raw: Any, override: str) -> ConfigPath:
    name, equals, text = override.partition("=")
    if not equals or not name:
        raise ConfigError([f"--set needs path=value, got {override!r}"])
    steps: ConfigPath = tuple(int(step) if step.isdigit() else step for step in name.split("."))
    here = raw
    for step in steps[:-1]:
        here = _descend(here, step, override)
    value = parse_value(text)
    last = steps[-1]
    if isinstance(here, list) and (not isinstance(last, int) or last >= len(here)):
        raise ConfigError([f"there is no entry {last}  at (--set {override})"])
    here[last] = value
    return steps


def parse_value(text: str) -> Any:
    """A value as YAML writes it: ``16``, ``1e-6``, ``[a, b]``."""
    from ruamel.yaml import YAML

    return _plain(YAML(typ="safe").load(text))


def _descend(here: Any, step: str | int, override: str) -> Any:
    inner: Any
    key: Any
    if isinstance(here, list):
        if not isinstance(step, int) or step >= len(here):
            raise ConfigError([f"there is no entry {step}  at (--set {override})"])
        inner, key = here[step], step
    elif isinstance(here, Mapping):
        inner, key = here.get(step), step
    else:
        raise ConfigError([f"{step!r} has nothing below it  at (--set {override})"])
    if inner is None:
        inner = {}
    elif isinstance(inner, str):
        inner = {"use": inner}
    here[key] = inner
    return inner
