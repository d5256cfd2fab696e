"""List the installed parts. Reads metadata only, unless --check is given."""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections import Counter

from dovetail import catalog

_SLOW_MS = 50.0
# What every part imports (dovetail.parts: attrs, pluggy) is loaded before the clock starts.
_PROBE = "import sys, dovetail.parts, dovetail_trainer.cli.plugins as p; print(p.import_part(*sys.argv[1:]))"


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--check", action="store_true", help="import each part in a process of its own")
    parser.add_argument("--json", action="store_true", help="machine-readable")


def run(arguments: argparse.Namespace) -> int:
    """Print the list; with --check the exit code is 1 if a part cannot be imported."""
    entries = catalog.entries()
    offers = Counter((entry.kind, entry.name) for entry in entries)
    rows = []
    for entry in entries:
        status = "clash" if offers[entry.kind, entry.name] > 1 else "installed"
        row = {"kind": entry.kind, "name": entry.name, "distribution": f"{entry.distribution} {entry.version}"}
        rows.append({**row, "target": entry.target, "status": probe(entry) if arguments.check else status})
    if arguments.json:
        import json

        print(json.dumps(rows, indent=2))
    else:
        print(_table(rows) if rows else 'no parts are installed; try: pip install "dovetail[quickstart]"')
    return 1 if any(row["status"].startswith("error") for row in rows) else 0


def probe(entry: catalog.Entry) -> str:
    """Import a part in a process of its own: ok, slow, heavy (it pulled in torch), or the error."""
    import subprocess

    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, "-c", _PROBE, *entry]
    finished = subprocess.run(command, env=environment, capture_output=True, text=True)
    if finished.returncode:
        return f"error: the import ended with code {finished.returncode}"
    return finished.stdout.splitlines()[-1]


def import_part(*entry: str) -> str:
    """What :func:`probe` runs in the other process."""
    started = time.perf_counter()
    try:
        catalog.Entry(*entry).load()
    except Exception as error:
        return f"error: {str(error).splitlines()[0]}"
    milliseconds = (time.perf_counter() - started) * 1e3
    notes = ["heavy: imports torch"] if "torch" in sys.modules else []
    notes += [f"slow: {milliseconds:.0f} ms"] if milliseconds > _SLOW_MS else []
    return ", ".join(["ok", *notes])


def _table(rows: list[dict[str, str]]) -> str:
    lines = [list(rows[0]), *(list(row.values()) for row in rows)]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return "\n".join("  ".join(map(str.ljust, line, widths)).rstrip() for line in lines)
