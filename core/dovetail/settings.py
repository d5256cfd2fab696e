"""What a run can be told, apart from its parts: the fields of the configuration file and of ``dt.Trainer``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import attrs
from attrs.validators import and_, ge, gt, instance_of, le, optional

from dovetail.sampling import Sampling

_positive = and_(instance_of(int), ge(1))
_count = and_(instance_of(int), ge(0))


@attrs.frozen
class OptimizerSettings:
    """How an agent learns.

    Args:
        use: Import path of the optimizer class.
        lr: Learning rate. Usual range 1e-7 to 1e-5 for RL of a pretrained model, 1e-4 to 1e-3 for a tiny one or LoRA.
        weight_decay: Passed to the optimizer.
        options: Further arguments of the optimizer class.
        max_grad_norm: Gradients are scaled down to this norm; null leaves them.
        warmup_steps: Steps over which the learning rate rises linearly from 0.
        schedule: Import path of a ``torch.optim.lr_scheduler`` class, applied after the warm-up; null keeps it constant.
        schedule_options: Arguments of the schedule class.
    """

    use: str = "torch.optim.AdamW"
    lr: float = attrs.field(default=1e-5, validator=gt(0))
    weight_decay: float = attrs.field(default=0.0, validator=ge(0))
    options: Mapping[str, Any] = attrs.field(factory=dict)
    max_grad_norm: float | None = attrs.field(default=1.0, validator=optional(gt(0)))  # type: ignore[arg-type]
    warmup_steps: int = attrs.field(default=0, validator=_count)
    schedule: str | None = None
    schedule_options: Mapping[str, Any] = attrs.field(factory=dict)


@attrs.frozen
class LoraSettings:
    """Low-rank adapters through peft (``pip install "dovetail-core[lora]"``).

    Args:
        rank: Of the adapters. Usual range 8 to 64.
        alpha: Scale; null takes twice the rank.
        dropout: Kept at 0 for RL, so that ratios are exact.
        target_modules: Names of the layers that get adapters; none means every linear layer but the head.
    """

    rank: int = attrs.field(default=16, validator=_positive)
    alpha: float | None = None
    dropout: float = attrs.field(default=0.0, validator=and_(ge(0), le(1)))
    target_modules: tuple[str, ...] = ()


@attrs.frozen
class TinySettings:
    """A small Llama-style model with random weights and a character tokenizer, built locally.

    Args:
        hidden: Width.
        layers: Number of layers.
        heads: Attention heads.
        intermediate: Width of the MLP; 0 takes 8/3 of the hidden width.
        context: Longest sequence in tokens.
        seed: Of the random weights.
        characters: What the tokenizer knows.
    """

    hidden: int = attrs.field(default=64, validator=_positive)
    layers: int = attrs.field(default=2, validator=_positive)
    heads: int = attrs.field(default=4, validator=_positive)
    intermediate: int = attrs.field(default=0, validator=_count)
    context: int = attrs.field(default=512, validator=_positive)
    seed: int = 0
    characters: str | None = None


@attrs.frozen
class TrainSettings:
    """How a run goes, whatever its algorithm.

    Args:
        seed: Of everything random in the run.
        batch_size: Prompts (or rows of data) for each step.
        micro_batch_tokens: Most padded tokens in one forward pass; smaller needs less memory and changes no number.
        sampling: How completions are drawn.
        max_invalid: Share of samples without a valid reward above which the run stops.
        reward_timeout: Seconds that a reward or an episode may take for a batch.
        checkpoint_every: Steps between checkpoints; 0 writes only the last.
        keep_checkpoints: How many are kept.
        rollouts_every: Steps between rollouts written to the run folder; 0 writes none.
        evaluate_every: Steps between evaluations on the test split; 0 evaluates never.
        evaluate_tasks: Tasks of an evaluation.
        mask_truncated: Leave completions that hit the token limit out of the loss; they still enter the baseline.
        threads: Of torch on the CPU; null leaves torch's choice.
    """

    seed: int = 0
    batch_size: int = attrs.field(default=8, validator=_positive)
    micro_batch_tokens: int = attrs.field(default=16384, validator=_positive)
    sampling: Sampling = attrs.field(factory=Sampling)
    max_invalid: float = attrs.field(default=0.1, validator=and_(ge(0), le(1)))
    reward_timeout: float = attrs.field(default=60.0, validator=gt(0))
    checkpoint_every: int = attrs.field(default=50, validator=_count)
    keep_checkpoints: int = attrs.field(default=2, validator=_positive)
    rollouts_every: int = attrs.field(default=1, validator=_count)
    evaluate_every: int = attrs.field(default=0, validator=_count)
    evaluate_tasks: int = attrs.field(default=256, validator=_positive)
    mask_truncated: bool = False
    threads: int | None = attrs.field(default=None, validator=optional(_positive))


@attrs.frozen
class DataSettings:
    """Rows for an offline recipe.

    Args:
        path: A JSONL or parquet file, or the name of a hub dataset.
        split: Of a hub dataset.
        on_broken: ``stop`` at a line that cannot be read, or ``skip`` it and count it.
        shuffle: Draw the rows in a seeded order, a new one each epoch.
    """

    path: str
    split: str = "train"
    on_broken: Literal["stop", "skip"] = "stop"
    shuffle: bool = True
