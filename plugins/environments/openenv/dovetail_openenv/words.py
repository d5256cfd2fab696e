"""Between words and what an OpenEnv server speaks: actions out of texts, texts out of observations."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

from dovetail_openenv import PLACE
from dovetail_openenv.client import Misunderstood

_NUMBER = re.compile(r"[-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?")
_FENCED = re.compile(r"```(?:json)?\s*\n(.*?)```", re.DOTALL)
_HIDDEN = ("done", "reward", "metadata")


def action_of(text: str, template: Any, read: str) -> dict[str, Any]:
    """The action that a turn asks for.

    Raises:
        Misunderstood: The turn has no number or JSON where one is needed.
    """
    value = {"text": str, "number": _number, "json": _json}[read](text)
    action = _filled(template, value)
    if not isinstance(action, dict):
        raise Misunderstood(f"the action must be a JSON object, and is a {type(action).__name__}")
    return action


def _filled(template: Any, value: Any) -> Any:
    if template == PLACE:
        return value
    if isinstance(template, Mapping):
        return {name: _filled(inner, value) for name, inner in template.items()}
    if isinstance(template, list | tuple):
        return [_filled(inner, value) for inner in template]
    if isinstance(template, str):
        return template.replace(PLACE, value if isinstance(value, str) else json.dumps(value))
    return template


def _number(text: str) -> int | float:
    found = _NUMBER.findall(text)
    if not found:
        raise Misunderstood("there is no number in it")
    last = found[-1][:400]
    return int(last) if last.lstrip("+-").isdigit() else float(last)


def _json(text: str) -> Any:
    """The last fenced block, or else the whole text, or else what stands from the first to the last brace."""
    first, last = text.find("{"), text.rfind("}")
    for piece in (*_FENCED.findall(text)[-1:], text, text[first : last + 1]):
        try:
            return json.loads(piece)
        except (ValueError, RecursionError):
            continue
    raise Misunderstood("there is no JSON in it")


def shown(observation: Mapping[str, Any], field: str | None) -> str:
    """What the policy sees; a ValueError if there is no such field."""
    visible = {name: value for name, value in observation.items() if name not in _HIDDEN}
    if field is not None:
        if field not in observation:
            raise ValueError(f"the observation has no field {field!r}; it has {', '.join(visible)}")
        value = observation[field]
    else:
        texts = [value for value in visible.values() if isinstance(value, str)]
        value = texts[0] if len(visible) == len(texts) == 1 else visible
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
