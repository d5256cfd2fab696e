"""Several models side by side: the same prompts, the same rewards, and how far each has moved."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import attrs
from attrs.validators import ge

if TYPE_CHECKING:
    from dovetail_rlhf.stages import StepConfig


@attrs.frozen
class Evaluate:
    """Each of ``agents`` answers the prompts, with the same seeds; figures for each, by its name there.

    ``reward`` and ``reward/NAME`` are means over valid samples, ``invalid`` is the share of the others, ``length`` the
    mean in tokens. Against the first agent: ``kl``, the mean over answers of Σ log π(t) - log π_first(t) over their
    tokens, in nats, an unbiased estimate of the KL divergence of whole answers (sampled, not greedy); and ``win_rate``, the
    share of prompts on which the mean total reward is higher, ties as half. Rewards see the answers of one model at a
    time: one that compares the answers of a group, such as a pairwise judge, tells no model from another.

    Args:
        samples: Answers to each prompt. Usual range 1 to 8.
    """

    samples: int = attrs.field(default=1, validator=ge(1))

    name: ClassVar[str] = "evaluate"
    needs: ClassVar[tuple[str, ...]] = ("agents", "data", "rewards")
    takes: ClassVar[tuple[str, ...]] = ()
    reads: ClassVar[str] = "prompts"
    output: ClassVar[str] = "figures"

    def make(self, config: StepConfig, folder: Path) -> dict[str, float]:
        """Write a line for each model and prompt; gives the figures."""
        found: dict[str, float] = {}
        first: list[dict[str, Any]] | None = None
        for number, label in enumerate(config.agents):
            entries = self._answers(config, label, folder, f"answers-{number}.jsonl")
            first = entries if first is None else first
            figures = {**_figures(entries), **(_against(entries, first) if number else {})}
            found.update({f"{name}/{label}": value for name, value in figures.items()})
        return found

    def _answers(self, config: StepConfig, label: str, folder: Path, file: str) -> list[dict[str, Any]]:
        from dovetail_rlhf.drawing import opened
        from dovetail_rlhf.work import Work
        from dovetail_trainer.config.build import build_agent, build_part
        from dovetail_trainer.data import read_prompts

        assert config.data is not None
        tasks, work = read_prompts(config.data), Work(folder / file)
        if work.done == len(tasks):
            return work.entries
        agent, reference = build_agent(config.agents[label]), build_agent(next(iter(config.agents.values())))
        is_first = label == next(iter(config.agents))
        rewards = [build_part("rewards", part) for part in config.rewards]
        with opened(agent, rewards, config.settings, folder, self.samples) as draw:

            def entries(batch: int, chosen: Sequence[Any]) -> Iterator[dict[str, Any]]:
                rollouts, total = draw(batch, chosen)
                moved = [0.0] * len(rollouts) if is_first else _moved(agent, reference, rollouts, config.settings)
                for place, task in enumerate(chosen):
                    mine = slice(place * self.samples, (place + 1) * self.samples)
                    yield {"model": label, **_entry(task, rollouts, total, moved, range(len(rollouts))[mine])}

            work.fill(tasks, config.settings.batch_size, entries)
        return work.entries


def _moved(agent: Any, reference: Any, rollouts: Any, settings: Any) -> list[float]:
    """Of each answer the difference of its log-probs under the two models, in nats."""
    from dovetail.runtime.forward import forward_all

    budget = settings.micro_batch_tokens or 4096
    ours, theirs = (forward_all(each, rollouts, ("logprobs",), budget)["logprobs"] for each in (agent, reference))
    found: list[float] = (ours.sum() - theirs.to(ours.values.device).sum()).tolist()
    return found


def _entry(task: Any, rollouts: Any, total: Any, moved: Sequence[float], rows: Sequence[int]) -> dict[str, Any]:
    from dovetail_rlhf.rows import prompt_of

    def read(scores: Any) -> list[float | None]:
        return [float(scores.values[row]) if bool(scores.valid[row]) else None for row in rows]

    return {
        "prompt": prompt_of(task.messages), "completions": [rollouts.texts[row] for row in rows],
        "rewards": {name: read(scores) for name, scores in rollouts.rewards.items()}, "reward": read(total),
        "kl": [moved[row] for row in rows], "lengths": [int(rollouts.sampled.lengths[row]) for row in rows],
    }  # fmt: skip


def _figures(entries: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    columns = {"reward": [entry["reward"] for entry in entries]}
    columns |= {f"reward/{name}": [entry["rewards"][name] for entry in entries] for name in entries[0]["rewards"]}
    found = {}
    for name, column in columns.items():
        valid = [value for values in column for value in values if value is not None]
        found[name] = _mean(valid)
    totals = [value for values in columns["reward"] for value in values]
    found["invalid"] = _mean([float(value is None) for value in totals])
    found["length"] = _mean([float(length) for entry in entries for length in entry["lengths"]])
    return found


def _against(entries: Sequence[Mapping[str, Any]], first: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    means = [[_mean([value for value in e["reward"] if value is not None]) for e in side] for side in (entries, first)]
    wins = [(ours > theirs) + 0.5 * (ours == theirs) for ours, theirs in zip(*means, strict=True)
            if ours == ours and theirs == theirs]  # fmt: skip
    return {"kl": _mean([kl for entry in entries for kl in entry["kl"]]), "win_rate": _mean(wins)}


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values) if values else float("nan")
