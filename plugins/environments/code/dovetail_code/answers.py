"""From what a model wrote to a program. Nothing is parsed as Python here: that happens in the sandbox."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Sequence

_BLOCK = re.compile(r"^[ \t]*```[ \t]*(?:python|py|python3)?[ \t]*\r?\n(.*?)(?:^[ \t]*```|\Z)", re.S | re.M | re.I)
_OUTSIDE = re.compile(r"\n(?=[^\s)\]}])")


def program(text: str, rule: str, prefix: str, functions: Sequence[str]) -> str | None:
    """The program that an answer makes of a problem, or None if it holds none.

    Args:
        rule: ``block``, ``completion`` or ``auto``, as the option ``answer``.
        prefix: Source code that the prompt has begun: imports, helpers, the head of a function.
        functions: What the program must define; empty if it reads standard input.
    """
    blocks = [] if rule == "completion" else [match[1] for match in _BLOCK.finditer(text)]
    if blocks:
        defining = [block for block in blocks if defines(block, functions)]
        code = (defining or blocks)[-1]
    elif rule == "block":
        return None
    else:
        code = text
    if not code.strip():
        return None
    if not functions or defines(code, functions):
        return f"{prefix}\n\n{code}" if prefix else code
    return _continued(prefix, code, is_block=bool(blocks))


def defines(code: str, functions: Sequence[str]) -> bool:
    """Whether it defines one of the functions at its top level."""
    names = "|".join(map(re.escape, functions))
    definition = rf"^(?:async[ \t]+)?(?:def|class)[ \t]+(?:{names})\b|^(?:{names})[ \t]*="
    return bool(functions) and re.search(definition, code, re.M) is not None


def _continued(prefix: str, code: str, is_block: bool) -> str:
    """The rest of a function that the prompt has begun. What a model writes after its end does not count."""
    if is_block and not code[:1].isspace():
        code = textwrap.indent(code, "    ")
    return prefix + _OUTSIDE.split(code, maxsplit=1)[0] + "\n"
