"""Parts of a user's own file: ``use: rewards.py:brevity`` in a configuration, without a package."""

from __future__ import annotations

import re
import sys
from importlib.machinery import SourceFileLoader
from pathlib import Path
from types import ModuleType

from dovetail.errors import UserError, did_you_mean
from dovetail.registry import registry

_PATTERN = re.compile(r"(?P<file>.+\.py):(?P<name>\w+)")


def is_own_code(use: str) -> bool:
    """Whether a name is one of a file."""
    return _PATTERN.fullmatch(use) is not None


def register(kind: str, use: str, folder: Path) -> tuple[str, str]:
    """Load what ``use`` names and register it.

    Args:
        kind: Of the part.
        use: ``file.py:name``; a relative file lies in ``folder``.
        folder: That of the configuration.

    Returns:
        The name in the registry, with the whole path so that a resume finds it from anywhere, and the short name.

    Raises:
        UserError: The file is not there, fails, or has no such name.
    """
    found = _PATTERN.fullmatch(use)
    assert found is not None
    file, name = (folder / found["file"]).resolve(), found["name"]
    module = _load(file)
    if not hasattr(module, name):
        own = [key for key, value in vars(module).items() if getattr(value, "__module__", "") == module.__name__]
        raise UserError(f"{file} defines no {name!r}", hint=did_you_mean(name, own))
    registry(kind).register(f"{file}:{name}", getattr(module, name))
    return f"{file}:{name}", name


def _load(file: Path) -> ModuleType:
    name = f"dovetail_own_code.{file}"
    if name in sys.modules:
        return sys.modules[name]
    if not file.exists():
        raise UserError(f"the file {file} does not exist", hint="a path is relative to the configuration")
    loader = SourceFileLoader(name, str(file))
    module = ModuleType(name)
    module.__file__ = str(file)
    sys.modules[name] = module  # attrs and pickle look a class's module up while it is made
    try:
        loader.exec_module(module)
    except Exception as error:
        del sys.modules[name]
        raise UserError(f"{file} cannot be loaded: {type(error).__name__}: {error}") from error
    return module
