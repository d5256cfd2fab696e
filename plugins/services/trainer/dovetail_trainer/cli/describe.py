"""Show a part: what it does, its options, what it needs."""

from __future__ import annotations

import argparse
import inspect
import json
from typing import Any

from dovetail.errors import UserError, did_you_mean
from dovetail.parts import HOOKS_BY_KIND, KINDS, Option, options_of
from dovetail.registry import registry

LEGEND = (
    "R reward, A advantage; lp, old, ref, sampled: log-probs now, before the batch, of the reference, of the sampler"
)


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("kind", help=f"one of {', '.join(KINDS)}; the singular does too")
    parser.add_argument("name", nargs="?", help="left out, it lists what there is")
    parser.add_argument("--preset", help="of a recipe: another system's defaults, beside ours and those of the others")
    parser.add_argument("--json", action="store_true", help="machine-readable")


def run(arguments: argparse.Namespace) -> int:
    """Print the description."""
    kinds = {kind.removesuffix(ending): kind for kind in KINDS for ending in ("s", "es", "")}
    kind = kinds.get(arguments.kind)
    if kind is None:
        raise UserError(f"no kind of part is called {arguments.kind!r}", hint=did_you_mean(arguments.kind, KINDS))
    if arguments.name is None:
        print("\n".join(registry(kind)))
        return 0
    name = f"{arguments.name}-{arguments.preset}" if arguments.preset else arguments.name
    target, provenance = registry(kind).target(name)
    methods = {hook: getattr(target, hook, None) if inspect.isclass(target) else target for hook in HOOKS_BY_KIND[kind]}
    described = {
        "kind": kind,
        "name": name,
        "from": str(provenance),
        "about": inspect.getdoc(target) or "",
        "options": [_option(option) for option in options_of(target)],
        "formula": _formulas(target) if kind == "recipes" else {},
        "differences": _differences(arguments.name, name) if arguments.preset else {},
        "needs": {hook: _arguments(method) for hook, method in methods.items() if method is not None},
    }
    print(json.dumps(described, indent=2) if arguments.json else _text(described))
    return 0


def _formulas(recipe: Any) -> dict[str, str]:
    """What the parts of a recipe compute, of those that tell it: by node, in words and symbols."""
    parts = {node.name: node.op.part.instance for node in recipe.trace() if node.op.part}
    return {name: part.formula() for name, part in parts.items() if hasattr(part, "formula")}


def _differences(base: str, chosen: str) -> dict[str, list[str]]:
    """What a preset changes of its base, and of each other preset."""
    from dovetail_trainer.show import diff

    others = [name for name in registry("recipes") if name.startswith(f"{base}-") and name != chosen]
    return {other: list(diff(other, chosen)) for other in (base, *others)}


def type_text(kind: Any) -> str:
    """A type as one reads it: ``int``, ``float | None``, ``'a' | 'b'``."""
    text = kind.__name__ if isinstance(kind, type) else str(kind)
    if text.startswith("typing.Literal["):
        return text.removeprefix("typing.Literal[").removesuffix("]").replace(", ", " | ")
    return text.replace("typing.", "")


def _option(option: Option) -> dict[str, str]:
    default = "required" if option.required else repr(option.default)
    return {"name": option.name, "type": type_text(option.type), "default": default, "about": option.doc}


def _arguments(method: Any) -> list[str]:
    return [name for name in inspect.getfullargspec(method).args if name != "self"]


def _text(described: dict[str, Any]) -> str:
    lines = [f"{described['kind']}/{described['name']}  from {described['from']}", ""]
    lines += [described["about"].partition("\nArgs:")[0].strip()]
    for node, formula in described["formula"].items():
        lines += ["", f"{node}:", *(f"  {line}" for line in formula.splitlines())]
    if described["formula"]:
        lines += ["", LEGEND]
    for other, changes in described["differences"].items():
        lines += ["", f"changed from {other}:", *(f"  {line}" for line in changes or ["no difference"])]
    if described["options"]:
        lines += ["", "options:"]
    for option in described["options"]:
        lines += [f"  {option['name']}: {option['type']} = {option['default']}"]
        lines += [f"      {option['about']}"] if option["about"] else []
    for hook, names in described["needs"].items():
        lines += ["", f"{hook} needs: {', '.join(names) or 'nothing'}"]
    return "\n".join(lines)
