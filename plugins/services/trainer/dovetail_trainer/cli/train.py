"""Train agents by a configuration file, or resume a run."""

from __future__ import annotations

import argparse
import logging
import os
import sys
from typing import Any

from dovetail.errors import UserError


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("config", nargs="?", help="a .yaml, .toml, .json or .py file")
    parser.add_argument("--set", action="append", default=[], metavar="PATH=VALUE", help="override a value")
    parser.add_argument("--resume", metavar="RUN", help="continue the run in this folder")
    parser.add_argument("--steps", type=int, help="train until this step; by default what the configuration says")
    parser.add_argument("--processes", type=int, default=1, help="of this machine that share the work, one a GPU")
    parser.add_argument("--profile", action="store_true", help="write a trace of a few steps into the run's folder")
    parser.add_argument("--ignore-lock", action="store_true", help="resume although plugin versions differ")


def run(arguments: argparse.Namespace) -> int:
    """Train to the end."""
    from dovetail_trainer.config.build import build
    from dovetail_trainer.config.load import load

    if (arguments.config is None) == (arguments.resume is None):
        raise UserError("give either a configuration or --resume RUN", hint="dovetail train --help")
    if arguments.resume and (arguments.set or arguments.profile):
        hint = "--steps N takes it further; for anything else start a new run"
        raise UserError("--set and --profile cannot change a run that is resumed", hint=hint)
    if arguments.processes != 1:
        from dovetail_trainer.launch import launch

        load(f"{arguments.resume}/config.json") if arguments.resume else load(arguments.config, arguments.set)
        return launch(arguments.processes, _words(arguments))  # what is wrong in the file has been told once
    configure_logging()
    if int(os.environ.get("RANK", 0)):
        sys.stdout = open(os.devnull, "w")  # noqa: SIM115 - until the process ends; the first one speaks
    if arguments.resume:
        from dovetail_trainer.trainer import Trainer

        trainer = Trainer.resume(arguments.resume, ignore_lock=arguments.ignore_lock)
        config = load(f"{arguments.resume}/config.json")
    else:
        config = load(arguments.config, arguments.set)
        trainer = build(_with_profile(config) if arguments.profile else config)
    try:
        trainer.fit(arguments.steps or config.steps)
    except KeyboardInterrupt:
        print(f"go on with: dovetail train --resume {trainer.run.directory}", file=sys.stderr)
        raise
    if not trainer.ranks.is_first:
        return 0
    reason = f" ({trainer.run.stop_reason})" if trainer.run.stop_reason else ""
    print(f"{trainer.run.step} steps done{reason}; the run is in {trainer.run.directory}")
    return 0


def _words(arguments: argparse.Namespace) -> list[str]:
    """The same command for each of several processes."""
    words = ["train", *([arguments.config] if arguments.config else ["--resume", arguments.resume])]
    words += [word for value in arguments.set for word in ("--set", value)]
    words += ["--steps", str(arguments.steps)] if arguments.steps else []
    flags = {"--profile": arguments.profile, "--ignore-lock": arguments.ignore_lock, "--traceback": arguments.traceback}
    return words + [flag for flag, given in flags.items() if given]


def _with_profile(config: Any) -> Any:
    import attrs

    from dovetail.registry import registry
    from dovetail_trainer.config.schema import PartConfig

    if any(part.use == "profile" for part in config.extensions):
        return config
    if "profile" not in registry("extensions"):
        raise UserError("--profile needs a part that is not installed", hint='pip install "dovetail[benchmark]"')
    return attrs.evolve(config, extensions=(*config.extensions, PartConfig("profile")))


def configure_logging() -> None:
    """Diagnostics to standard error: readable on a terminal, JSON otherwise. Only commands may call it."""
    import structlog
    from structlog import processors

    on_terminal, rank = sys.stderr.isatty(), int(os.environ.get("RANK", 0))
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            processors.add_log_level,
            processors.TimeStamper(fmt="iso"),
            structlog.dev.ConsoleRenderer() if on_terminal else processors.JSONRenderer(),
        ],
        wrapper_class=structlog.make_filtering_bound_logger(logging.ERROR if rank else logging.INFO),
        logger_factory=lambda *_: structlog.PrintLogger(sys.stderr),  # of the moment: it may be replaced
    )
