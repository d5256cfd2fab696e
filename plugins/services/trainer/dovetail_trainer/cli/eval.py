"""How often a model succeeds in an environment: pass@k with confidence intervals, by type of task."""

from __future__ import annotations

import argparse
import json
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import attrs

from dovetail.errors import UserError
from dovetail_trainer.cli import source
from dovetail_trainer.statistics import Estimate, difference, pass_at_k, share

if TYPE_CHECKING:
    from dovetail.messages import Task
    from dovetail.rollouts import Rollouts


def configure(parser: argparse.ArgumentParser) -> None:
    source.configure(parser)
    parser.add_argument("--k", default="1", help="numbers of samples one of which must succeed, such as 1,4,8")
    parser.add_argument("--success", metavar="REWARD", help="the reward that must be at least 1; by default the total")
    parser.add_argument("--by", metavar="COLUMN", help="column of the tasks that tells their type; by default level")
    parser.add_argument("--baseline", metavar="MODEL", help="another model, on the same tasks with the same seeds")
    parser.add_argument("--json", action="store_true", help="machine-readable")


@attrs.define
class Tally:
    """Valid samples and successes of a task."""

    valid: int = 0
    successes: int = 0


def run(arguments: argparse.Namespace) -> int:
    """Print a line for all tasks and one for each type."""
    ks = _numbers(arguments.k, arguments.samples)
    playing = source.Source.read(arguments)
    environment = playing.environment()
    tasks = playing.tasks(environment)
    types = _types(tasks, arguments.by)

    def tally(model: str | None) -> list[Tally]:
        return count(playing.play(playing.policy(model), environment, tasks), arguments.success)

    tallies = tally(None)
    baseline = tally(arguments.baseline) if arguments.baseline else None
    report = {name: _estimates(rows, ks, tallies, baseline) for name, rows in types.items()}
    invalid = sum(arguments.samples - each.valid for each in tallies)
    if arguments.json:
        plain = {name: {key: attrs.asdict(each) for key, each in found.items()} for name, found in report.items()}
        print(json.dumps({"tasks": len(tasks), "samples": arguments.samples, "invalid": invalid, "success": plain}))
    else:
        drawn = f"{arguments.samples} samples each at temperature {playing.temperature:g}"
        print(f"{len(tasks)} tasks of {environment.name}/{arguments.split}, {drawn}")
        print("\n".join(_table(report)))
        if invalid:
            print(f"{invalid} samples have no valid reward and are left out")
    return 0


def count(batches: Iterable[Rollouts], success: str | None) -> list[Tally]:
    """Successes of each task, in order; a UserError if there is no such reward."""
    tallies: list[Tally] = []
    for rollouts in batches:
        name = success or "reward"
        if name not in rollouts.rewards:
            raise UserError(f"there is no reward {name!r}", hint=f"one of {', '.join(rollouts.rewards)}")
        if any("agent" in task.columns for task in rollouts.tasks):
            raise UserError("a game of several agents has no pass@k", hint="dovetail collect writes its episodes")
        scores, groups = rollouts.rewards[name], rollouts.groups.tolist()
        batch: dict[int, Tally] = defaultdict(Tally)
        for group, valid, value in zip(groups, scores.valid.tolist(), scores.values.tolist(), strict=True):
            batch[group].valid += valid
            batch[group].successes += valid and value >= 1.0
        tallies += [batch[group] for group in sorted(batch)]
    return tallies


def _numbers(text: str, samples: int) -> list[int]:
    try:
        ks = [int(each) for each in text.split(",")]
    except ValueError:
        raise UserError(f"--k needs whole numbers, got {text!r}", hint="--k 1,4,8") from None
    for k in ks:
        if not 1 <= k <= samples:
            raise UserError(f"pass@{k} needs {k} samples of each task, and there are {samples}", hint=f"--samples {k}")
    return ks


def _types(tasks: Sequence[Task], column: str | None) -> dict[str, list[int]]:
    """Rows by type; all of them first. A UserError if the tasks do not have the column."""
    types: dict[str, list[int]] = {"all": list(range(len(tasks)))}
    if column is None and not all("level" in task.columns for task in tasks):
        return types
    for row, task in enumerate(tasks):
        if (column or "level") not in task.columns:
            raise UserError(f"task {task.id!r} has no column {column!r}", hint=f"one of {', '.join(task.columns)}")
        types.setdefault(str(task.columns[column or "level"]), []).append(row)
    return types if len(types) > 2 else {"all": types["all"]}


def _estimates(
    rows: Sequence[int], ks: Sequence[int], tallies: Sequence[Tally], baseline: Sequence[Tally] | None
) -> dict[str, Estimate]:
    found = {}
    for k in ks:
        both = [tallies] if baseline is None else [tallies, baseline]
        counted = [row for row in rows if all(side[row].valid >= k for side in both)]
        values = [[pass_at_k(side[row].valid, side[row].successes, k) for row in counted] for side in both]
        found[f"pass@{k}"] = share(values[0])
        if baseline is not None:
            found[f"baseline pass@{k}"], found[f"difference@{k}"] = share(values[1]), difference(*values)
    return found


def _table(report: Mapping[str, Mapping[str, Any]]) -> list[str]:
    width = max(map(len, report))
    return [
        f"{name.ljust(width)}  {metric:<16} {estimate}  ({estimate.tasks} tasks)"
        for name, found in report.items()
        for metric, estimate in found.items()
    ]
