"""Run a pipeline of stages, or go on with one: from demonstrations over preferences to an evaluated policy."""

from __future__ import annotations

import argparse
import sys

from dovetail import UserError


def configure(parser: argparse.ArgumentParser) -> None:
    """The command's options."""
    parser.add_argument("config", nargs="?", help="a .yaml, .toml, .json or .py file with `stages`")
    parser.add_argument("--set", action="append", default=[], metavar="PATH=VALUE", help="override a value")
    parser.add_argument("--resume", metavar="RUN", help="continue the pipeline in this folder")
    parser.add_argument("--check", action="store_true", help="read and check the file, show the stages, run nothing")
    parser.add_argument("--show", metavar="PRESET", help="print the file of rlhf, rlaif or constitutional")
    parser.add_argument("--ignore-lock", action="store_true", help="resume although plugin versions differ")


def run(arguments: argparse.Namespace) -> int:
    """Run all stages."""
    from dovetail_rlhf.pipeline import Pipeline
    from dovetail_rlhf.preset import preset_text
    from dovetail_rlhf.reading import read, read_again
    from dovetail_trainer.cli.train import configure_logging

    given = [arguments.config, arguments.resume, arguments.show]
    if sum(each is not None for each in given) != 1:
        raise UserError("give a configuration, --resume RUN or --show PRESET", hint="dovetail pipeline --help")
    if arguments.show is not None:
        print(preset_text(arguments.show), end="")
        return 0
    if arguments.resume and arguments.set:
        raise UserError(
            "--set cannot change a pipeline that is resumed", hint="start a new one, and `replace` what is done"
        )
    configure_logging()
    plan = read_again(arguments.resume) if arguments.resume else read(arguments.config, arguments.set)
    if arguments.check:
        for stage in plan.stages:
            print(f"{stage.name}: {stage.about}")
        return 0
    pipeline = Pipeline(plan, ignore_lock=arguments.ignore_lock)
    try:
        pipeline.run()
    except KeyboardInterrupt:
        print(f"go on with: dovetail pipeline --resume {plan.directory}", file=sys.stderr)
        raise
    print(f"the pipeline is done; its report is {pipeline.report()}")
    return 0
