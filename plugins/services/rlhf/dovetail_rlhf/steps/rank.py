"""How often rewards rank held-out pairs as people did."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import attrs

if TYPE_CHECKING:
    from dovetail_rlhf.stages import StepConfig


@attrs.frozen
class Rank:
    """The share of pairs whose better answer each reward scores higher, ties as half; the test of a reward model.

    The tokenizer of ``policy`` reads the pairs for rewards that see tokens. Pairs with an invalid score are counted.
    """

    name: ClassVar[str] = "rank"
    needs: ClassVar[tuple[str, ...]] = ("policy", "data", "rewards")
    takes: ClassVar[tuple[str, ...]] = ()
    reads: ClassVar[str] = "pairs"
    output: ClassVar[str] = "figures"

    def make(self, config: StepConfig, folder: Path) -> dict[str, float]:
        """Score all pairs; gives the figures."""
        import torch

        from dovetail.runtime.scoring import Offloader
        from dovetail_rlhf.drawing import informed
        from dovetail_rlhf.work import Work
        from dovetail_trainer.config.build import build_agent, build_part
        from dovetail_trainer.data import encode_rows, read_rows
        from dovetail_trainer.layouts import layout_of
        from dovetail_trainer.run import Run

        assert config.policy is not None
        assert config.data is not None
        if config.settings.threads:
            torch.set_num_threads(config.settings.threads)
        agent, layout = build_agent(config.policy), layout_of("pairs")
        rewards = [build_part("rewards", part) for part in config.rewards]
        rows, work, run = read_rows(config.data, layout), Work(folder / "work.jsonl"), Run(folder, self.name)
        with contextlib.closing(Offloader()) as offloader, informed(rewards, run):

            def entries(_: int, chosen: Sequence[Any]) -> Iterator[dict[str, Any]]:
                return _scored(encode_rows(chosen, agent, layout), rewards, offloader, config.settings.reward_timeout)

            work.fill(list(rows), config.settings.batch_size, entries)
        return _figures(work.entries)


def _scored(rollouts: Any, rewards: Sequence[Any], offloader: Any, timeout: float) -> Iterator[dict[str, Any]]:
    from dovetail.runtime.scoring import PendingScores

    pending = {part.label: PendingScores(part, rollouts, offloader, timeout) for part in rewards}
    scores = {label: each.result() for label, each in pending.items()}
    for better in range(0, len(rollouts), 2):  # a pair's rows lie side by side, the better one first
        said = {}
        for label, given in scores.items():
            is_valid = bool(given.valid[better : better + 2].all())
            said[label] = given.values[better : better + 2].tolist() if is_valid else None
        yield {"prompt": rollouts.messages[better][-2].content, "scores": said,
               "answers": [rollouts.texts[better], rollouts.texts[better + 1]]}  # fmt: skip


def _figures(entries: Sequence[dict[str, Any]]) -> dict[str, float]:
    found: dict[str, float] = {"pairs": len(entries)}
    for label in entries[0]["scores"]:
        valid = [entry["scores"][label] for entry in entries if entry["scores"][label] is not None]
        found[f"invalid/{label}"] = 1 - len(valid) / len(entries)
        if valid:
            found[f"accuracy/{label}"] = sum((a > b) + 0.5 * (a == b) for a, b in valid) / len(valid)
            found[f"margin/{label}"] = sum(a - b for a, b in valid) / len(valid)
    return found
