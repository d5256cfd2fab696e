"""Show a part: what it does, its options, what it needs."""

from __future__ import annotations

import argparse
import inspect
import json
from typing import Any

from dovetail.errors import UserError, did_you_mean
from dovetail.parts import HOOKS_BY_KIND, KINDS, Option, options_of
from dovetail.registry import registry


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("kind", help=f"one of {', '.join(KINDS)}; the singular does too")
    parser.add_argument("name")
    parser.add_argument("--json", action="store_true", help="machine-readable")


def run(arguments: argparse.Namespace) -> int:
    """Print the description."""
    kind = full_kind(arguments.kind)
    target, provenance = registry(kind).target(arguments.name)
    options = target.options if kind == "recipes" else options_of(target)
    described = {
        "kind": kind,
        "name": arguments.name,
        "from": str(provenance),
        "about": (inspect.getdoc(target) if kind != "recipes" else target.__doc__) or "",
        "options": [_option(option) for option in options],
        "needs": _needs(kind, target),
    }
    if arguments.json:
        print(json.dumps(described, indent=2))
    else:
        print(_text(described))
    return 0


def full_kind(name: str) -> str:
    """A kind by its plural or singular name.

    Raises:
        UserError: There is no such kind.
    """
    singular = {**{kind.removesuffix("s"): kind for kind in KINDS}, "loss": "losses", "advantage": "advantages"}
    kind = name if name in KINDS else singular.get(name)
    if kind is None:
        raise UserError(f"no kind of part is called {name!r}", hint=did_you_mean(name, KINDS))
    return kind


def _option(option: Option) -> dict[str, Any]:
    default = "required" if option.required else repr(option.default)
    return {"name": option.name, "type": type_text(option.type), "default": default, "about": option.doc}


def type_text(kind: Any) -> str:
    """A type as one reads it: ``int``, ``float | None``, ``'a' | 'b'``."""
    text = kind if isinstance(kind, str) else kind.__name__ if isinstance(kind, type) else str(kind)
    if text.startswith("typing.Literal["):
        return text.removeprefix("typing.Literal[").removesuffix("]").replace(", ", " | ")
    return text.replace("typing.", "")


def _needs(kind: str, target: Any) -> dict[str, list[str]]:
    found = {}
    for hook in HOOKS_BY_KIND[kind]:
        function = getattr(target, hook, None) if inspect.isclass(target) else target
        if callable(function):
            parameters = inspect.signature(function).parameters.values()
            found[hook] = [p.name for p in parameters if p.name != "self" and p.kind is not p.KEYWORD_ONLY]
    return found


def _text(described: dict[str, Any]) -> str:
    lines = [f"{described['kind']}/{described['name']}  from {described['from']}", ""]
    lines += [described["about"].partition("\nArgs:")[0].strip()]
    if described["options"]:
        lines += ["", "options:"]
        for option in described["options"]:
            lines.append(f"  {option['name']}: {option['type']} = {option['default']}")
            if option["about"]:
                lines.append(f"      {option['about']}")
    for hook, names in described["needs"].items():
        lines += ["", f"{hook} needs: {', '.join(names) or 'nothing'}"]
    return "\n".join(lines)
