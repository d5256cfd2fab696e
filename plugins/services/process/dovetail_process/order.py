"""What a worker process is told of its reward: names and options, from which it makes the part again."""

from __future__ import annotations

import functools
import importlib
import sys
from collections.abc import Mapping
from typing import Any

import attrs

from dovetail.errors import UserError
from dovetail.hookspecs import RunSpecs
from dovetail.parts import Part, Provenance, build_part, options_of
from dovetail.registry import registry

_LIFECYCLE = tuple(name for name in vars(RunSpecs) if not name.startswith("_"))
_IN_A_THREAD = "say process=False to score it in a thread"


@attrs.frozen
class Order:
    """A reward by name. An installed one is found by its entry point, any other by its import path."""

    name: str
    provenance: Provenance
    module: str
    qualname: str
    options: Mapping[str, Any]

    @classmethod
    def of(cls, part: Part) -> Order:
        """The order for a part of this process.

        Raises:
            UserError: The part keeps a state, listens to the run, or cannot be made again from names and options.
        """
        if part.has("state_dict"):
            hint = f"keep the state out of the reward, or {_IN_A_THREAD}"
            raise _refusal(part, "it keeps a state, which a checkpoint would not find there", hint)
        if heard := [hook for hook in _LIFECYCLE if part.implements(hook)]:
            hint = f"put the hook into an extension, or {_IN_A_THREAD}"
            raise _refusal(part, f"it listens to {heard[0]}, which is not told there", hint)
        target = part.target
        module, qualname = getattr(target, "__module__", ""), getattr(target, "__qualname__", "")
        if module == "__main__" or _attribute(sys.modules.get(module), qualname) is not target:
            where = "in the script itself" if module == "__main__" else "in no module under its own name"
            hint = f"move it to the top level of a module that can be imported, or {_IN_A_THREAD}"
            raise _refusal(part, f"{qualname or target!r} is defined {where}, where a new process cannot find it", hint)
        options = part.options()
        for option in options_of(target):
            if option.name not in options:
                hint = f"keep it in an attribute of that name, or {_IN_A_THREAD}"
                raise _refusal(part, f"its option {option.name!r} cannot be read back", hint)
        return cls(part.name, part.provenance, module, qualname, options)

    def build(self) -> Part:
        """Make the part, in the worker process.

        Raises:
            DovetailError: It cannot be imported, is of another version, or does not take the options.
        """
        if not self.provenance.version:
            return build_part("rewards", self.name, self._imported(), self.options, self.provenance)
        target, found = registry("rewards").target(f"{self.name}@{self.provenance.distribution}")
        if found != self.provenance:
            raise UserError(f"a worker process found {found}, and the run uses {self.provenance}")
        return build_part("rewards", self.name, target, self.options, found)

    def _imported(self) -> Any:
        try:
            return functools.reduce(getattr, self.qualname.split("."), importlib.import_module(self.module))
        except Exception as error:  # whatever a user's module raises on import
            problem = f"a worker process cannot import {self.module}:{self.qualname}: {type(error).__name__}: {error}"
            hint = f"put its folder into PYTHONPATH, or {_IN_A_THREAD}"
            raise UserError(problem, where=[str(self.provenance)], hint=hint) from error


def _attribute(module: Any, qualname: str) -> Any:
    try:
        return functools.reduce(getattr, qualname.split("."), module)
    except AttributeError:
        return None


def _refusal(part: Part, why: str, hint: str) -> UserError:
    return UserError(f"{part} cannot be scored in a process: {why}", where=[str(part.provenance)], hint=hint)
