"""What steps share that turn the policy's own answers into rows."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dovetail_rlhf.stages import StepConfig


def rows_of_answers(
    config: StepConfig, folder: Path, step: str, samples: int, entries: Callable[..., Iterable[dict[str, Any]]]
) -> tuple[list[Any], dict[str, float]]:
    """Draw and score ``samples`` answers to each prompt, and write ``rows.jsonl``.

    Args:
        config: Of the stage.
        folder: Of the stage.
        step: Its name, for errors.
        samples: Answers to each prompt.
        entries: Of the tasks of a batch, their rollouts and the total of the rewards: a line for each task.

    Returns:
        The rows, and the figures that every such step gives.
    """
    from dovetail_rlhf.drawing import opened
    from dovetail_rlhf.rows import all_rows, left_out
    from dovetail_rlhf.work import Work, write_rows
    from dovetail_trainer.config.build import build_agent, build_part
    from dovetail_trainer.data import read_prompts

    assert config.policy is not None
    assert config.data is not None
    tasks, work = read_prompts(config.data), Work(folder / "work.jsonl")
    rewards = [build_part("rewards", part) for part in config.rewards]
    with opened(build_agent(config.policy), rewards, config.settings, folder, samples) as draw:
        work.fill(tasks, config.settings.batch_size, lambda batch, chosen: entries(chosen, *draw(batch, chosen)))
    made = work.entries
    rows = all_rows(made, step)
    write_rows(folder / "rows.jsonl", rows)
    return rows, {"rows": len(rows), "prompts": len(tasks), **left_out(made)}
