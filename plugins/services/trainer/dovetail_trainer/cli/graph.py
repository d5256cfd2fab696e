"""Draw a recipe, or what it changes of another."""

from __future__ import annotations

import argparse


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("recipe")
    parser.add_argument("--format", choices=["mermaid", "svg"], default="mermaid")
    parser.add_argument("--diff", metavar="OTHER", help="print what the recipe changes of this one")
    parser.add_argument("--set", action="append", default=[], metavar="OPTION=VALUE", help="an option of the recipe")


def run(arguments: argparse.Namespace) -> int:
    """Print the drawing or the difference."""
    from dovetail import diff, draw
    from dovetail.graph.recipe import as_recipe
    from dovetail_trainer.config.load import parse_override
    from dovetail_trainer.config.schema import show

    options = {show(path): value for path, value in map(parse_override, arguments.set)}
    recipe = as_recipe(arguments.recipe)(**options)
    print(diff(arguments.diff, recipe) if arguments.diff else draw(recipe, arguments.format))
    return 0
