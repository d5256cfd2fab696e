"""List the installed parts. Reads metadata only, unless --check is given."""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from typing import Any

from dovetail import catalog

_SLOW_MS = 50.0
_PROBE = """
import sys, time, json
sys.path[:0] = json.loads(sys.argv[2])
import dovetail
from dovetail.catalog import Entry
entry = Entry(*json.loads(sys.argv[1]))
started = time.perf_counter()
try:
    entry.load()
    status = "ok"
except Exception as error:
    status = "error: " + str(error).splitlines()[0]
print(json.dumps([status, (time.perf_counter() - started) * 1e3, "torch" in sys.modules]))
"""


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--check", action="store_true", help="import each part in a process of its own")
    parser.add_argument("--json", action="store_true", help="machine-readable")


def run(arguments: argparse.Namespace) -> int:
    """Print the list; with --check the exit code is 1 if a part cannot be imported."""
    rows = [_row(entry, check=arguments.check) for entry in catalog.entries()]
    if arguments.json:
        print(json.dumps(rows, indent=2))
    else:
        print(_table(rows))
    return 1 if any(row["status"].startswith("error") for row in rows) else 0


def _row(entry: catalog.Entry, *, check: bool) -> dict[str, str]:
    twins = [e for e in catalog.entries() if (e.kind, e.name) == (entry.kind, entry.name)]
    status = "clash" if len(twins) > 1 else "installed"
    if check:
        status = probe(entry)
    return {
        "kind": entry.kind,
        "name": entry.name,
        "distribution": f"{entry.distribution} {entry.version}",
        "target": entry.target,
        "status": status,
    }


def probe(entry: catalog.Entry) -> str:
    """Import a part in a process of its own: ok, slow, heavy (it pulled in torch), or the error."""
    fields = [entry.kind, entry.name, entry.target, entry.distribution, entry.version]
    finished = subprocess.run(
        [sys.executable, "-c", _PROBE, json.dumps(fields), json.dumps(sys.path)], capture_output=True, text=True
    )
    if finished.returncode:
        return f"error: the import ended with code {finished.returncode}"
    status, milliseconds, heavy = json.loads(finished.stdout.splitlines()[-1])
    notes = ["heavy: imports torch"] if heavy else []
    notes += [f"slow: {milliseconds:.0f} ms"] if milliseconds > _SLOW_MS else []
    return ", ".join([status, *notes])


def _table(rows: list[dict[str, Any]]) -> str:
    if not rows:
        return 'no parts are installed; try: pip install "dovetail[quickstart]"'
    columns = list(rows[0])
    widths = [max(len(column), *(len(row[column]) for row in rows)) for column in columns]
    lines = ["  ".join(column.ljust(width) for column, width in zip(columns, widths, strict=True))]
    lines += ["  ".join(row[c].ljust(w) for c, w in zip(columns, widths, strict=True)) for row in rows]
    return "\n".join(line.rstrip() for line in lines)
