"""``dovetail``: find the command, run it, turn errors into one screen and an exit code."""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Sequence
from typing import Any

from dovetail import __version__, catalog
from dovetail.errors import DovetailError, UserError, did_you_mean

COMMANDS = {
    "train": "train agents by a configuration, or resume a run",
    "eval": "how often a model succeeds in an environment",
    "collect": "play episodes with a model and write them as rows",
    "plugins": "list the installed parts",
    "describe": "show a part: what it does, its options, what it needs",
    "graph": "draw a recipe, or what it changes of another",
    "rollouts": "read the samples of a run",
    "info": "versions, devices and tools of this machine",
}


def run() -> None:
    """The console script."""
    sys.exit(main(sys.argv[1:]))


def main(arguments: Sequence[str]) -> int:
    """Run a command line and give its exit code: 0 done, 1 the run failed, 2 the input is wrong."""
    try:
        return _dispatch([argument for argument in arguments if argument != "--traceback"])
    except SystemExit as error:
        return error.code if isinstance(error.code, int) else 2
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130
    except BrokenPipeError:
        sys.stderr.close()
        return 0
    except Exception as error:
        if "--traceback" in arguments:
            raise
        rank = os.environ.get("RANK")
        place = "error" if rank is None else f"error in process {rank}"
        if isinstance(error, DovetailError):
            print(f"{place}: {error}", file=sys.stderr)
            return error.exit_code
        print(f"{place}: {type(error).__name__}: {error}", file=sys.stderr)
        print("  try: the same command with --traceback", file=sys.stderr)
        return 1


def _dispatch(arguments: Sequence[str]) -> int:
    name, *rest = arguments or ["--help"]
    if name in ("-h", "--help", "--version"):
        print(f"dovetail {__version__}" if name == "--version" else _overview())
        return 0
    import argparse  # here, so that the overview need not wait for it

    if name != "train" and int(os.environ.get("WORLD_SIZE", 1)) > 1:
        raise UserError(f"`dovetail {name}` runs in one process", hint="start it without torchrun")
    command = _find(name)
    parser = argparse.ArgumentParser(prog=f"dovetail {name}", description=command.__doc__, allow_abbrev=False)
    command.configure(parser)
    parser.add_argument("--traceback", action="store_true", help="show where an error comes from")
    return int(command.run(parser.parse_args(rest)) or 0)


def _find(name: str) -> Any:
    if name in COMMANDS:
        return importlib.import_module(f"dovetail_trainer.cli.{name}")
    offered = [entry.name for entry in catalog.entries() if entry.kind == "commands"]
    if name in offered:
        return catalog.find("commands", name).load()
    hint = 'pip install "dovetail[testing]"' if name == "new" else did_you_mean(name, [*COMMANDS, *offered])
    raise UserError(f"no command is called {name!r}", hint=hint)


def _overview() -> str:
    lines = ["usage: dovetail COMMAND …", "", "commands:"]
    lines += [f"  {name:<10} {text}" for name, text in COMMANDS.items()]
    added = [entry for entry in catalog.entries() if entry.kind == "commands" and entry.name not in COMMANDS]
    lines += [f"  {entry.name:<10} (from {entry.distribution})" for entry in added]
    lines += ["", "dovetail COMMAND --help tells more. --traceback shows where an error comes from."]
    return "\n".join(lines)
