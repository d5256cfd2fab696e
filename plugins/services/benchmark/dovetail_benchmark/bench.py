"""``dovetail bench kernels``: every installed kernel against Python, torch and C++."""

from __future__ import annotations

import argparse
from pathlib import Path

from dovetail.errors import UserError


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("what", choices=["kernels"])
    parser.add_argument("names", nargs="*", help="of parts; all that are installed if none is named")
    parser.add_argument("--sizes", default="", help="rows x tokens, such as 8x512,256x1024")
    parser.add_argument("--json", help="a file for the measurements")
    parser.add_argument("--picture", help="a file for the picture, such as kernels.png")


def run(arguments: argparse.Namespace) -> int:
    """Measure and print.

    Raises:
        UserError: A name or a size will not do, or no kernel is installed.
    """
    from dovetail_benchmark.kernels import SIZES, KernelBenchmark, installed

    names = arguments.names or installed()
    if not names:
        raise UserError("no kernel is installed", hint='pip install "dovetail[repetition]"')
    sizes = [_size(text) for text in arguments.sizes.split(",")] if arguments.sizes else SIZES
    comparison = KernelBenchmark().compare_all(names, sizes)
    print(comparison.table(), end="")
    if arguments.json:
        Path(arguments.json).write_text(comparison.json() + "\n", encoding="utf-8")
    if arguments.picture:
        comparison.picture(Path(arguments.picture))
    return 0


def _size(text: str) -> tuple[int, int]:
    rows, _, tokens = text.strip().partition("x")
    if not (rows.isdigit() and tokens.isdigit() and int(rows) and int(tokens)):
        raise UserError(f"{text!r} is no size", hint="rows x tokens, such as 8x512")
    return int(rows), int(tokens)
