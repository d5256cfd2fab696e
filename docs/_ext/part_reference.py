"""Directives that write the reference from the code: ``parts`` (options of every installed part), ``hooks``."""

from __future__ import annotations

import inspect
import textwrap
from typing import Any

from docutils import nodes
from docutils.parsers.rst import Directive
from sphinx.application import Sphinx

from dovetail import hookspecs
from dovetail.parts import KINDS, options_of
from dovetail.registry import registry
from dovetail_trainer.cli.describe import type_text


class PartsDirective(Directive):
    """A section for each installed part with its options."""

    def run(self) -> list[nodes.Node]:
        sections: list[nodes.Node] = []
        for kind in KINDS:
            if kind == "commands":
                continue
            for name in registry(kind):
                sections.append(_part_section(kind, name))
        return sections


def _part_section(kind: str, name: str) -> nodes.section:
    target, provenance = registry(kind).target(name)
    section = nodes.section(ids=[f"{kind}-{name}"])
    section += nodes.title(text=f"{name} ({kind})")
    about = (inspect.getdoc(target) if kind != "recipes" else target.__doc__) or ""
    section += nodes.paragraph(text=about.partition("\n\n")[0].replace("``", ""))
    section += nodes.paragraph(text=f"From {provenance}.")
    options = target.options if kind == "recipes" else options_of(target)
    if options:
        items = nodes.definition_list()
        for option in options:
            default = "required" if option.required else repr(option.default)
            term = nodes.term("", "", nodes.literal(text=f"{option.name}: {type_text(option.type)} = {default}"))
            definition = nodes.definition("", nodes.paragraph(text=option.doc.replace("``", "")))
            items += nodes.definition_list_item("", term, definition)
        section += items
    return section


class HooksDirective(Directive):
    """A section for each hook spec, in the order of a run."""

    def run(self) -> list[nodes.Node]:
        sections: list[nodes.Node] = []
        for group in hookspecs.SPECS:
            section = nodes.section(ids=[f"specs-{group.__name__.lower()}"])
            section += nodes.title(text=group.__name__)
            section += nodes.paragraph(text=inspect.getdoc(group) or "")
            for name, function in vars(group).items():
                if not name.startswith("_"):
                    section += _hook(function)
            sections.append(section)
        return sections


def _hook(function: Any) -> nodes.literal_block:
    """The spec as it is written: every argument has its type and its meaning beside it."""
    return nodes.literal_block(text=textwrap.dedent(inspect.getsource(function)), language="python")


def setup(app: Sphinx) -> dict[str, bool]:
    app.add_directive("parts", PartsDirective)
    app.add_directive("hooks", HooksDirective)
    return {"parallel_read_safe": True}
