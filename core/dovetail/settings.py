"""What a run can be told, apart from its parts: the fields of the configuration file and of ``dt.Trainer``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from attrs import field, frozen
from attrs.validators import ge, gt, optional

from dovetail.sampling import Sampling, count, positive, share


@frozen
class OptimizerSettings:
    """How an agent learns.

    Usual learning rates: 1e-7 to 1e-5 for RL of a pretrained model, 1e-4 to 1e-3 for a tiny one or LoRA.
    """

    use: str = "torch.optim.AdamW"  #: import path of the optimizer class
    lr: float = field(default=1e-5, validator=gt(0))  #: learning rate
    weight_decay: float = field(default=0.0, validator=ge(0))  #: passed to the optimizer
    options: Mapping[str, Any] = field(factory=dict)  #: further arguments of the optimizer class
    #: gradients are scaled down to this norm; null leaves them
    max_grad_norm: float | None = field(default=1.0, validator=optional(gt(0)))  # type: ignore[arg-type]
    warmup_steps: int = field(default=0, validator=count)  #: steps over which the learning rate rises linearly from 0
    schedule: str | None = None  #: import path of a ``torch.optim.lr_scheduler`` class, applied after the warm-up
    schedule_options: Mapping[str, Any] = field(factory=dict)  #: arguments of the schedule class


@frozen
class LoraSettings:
    """Low-rank adapters through peft (``pip install "dovetail-core[lora]"``)."""

    rank: int = field(default=16, validator=positive)  #: of the adapters, usual range 8 to 64
    alpha: float | None = None  #: scale; null takes twice the rank
    dropout: float = field(default=0.0, validator=share)  #: kept at 0 for RL, so that ratios are exact
    target_modules: tuple[str, ...] = ()  #: layers that get adapters; none means every linear layer but the head


@frozen
class TinySettings:
    """A small Llama-style model with random weights and a character tokenizer, built locally."""

    hidden: int = field(default=64, validator=positive)  #: width
    layers: int = field(default=2, validator=positive)
    heads: int = field(default=4, validator=positive)  #: of the attention
    intermediate: int = field(default=0, validator=count)  #: width of the MLP; 0 takes 8/3 of the hidden width
    context: int = field(default=512, validator=positive)  #: longest sequence in tokens
    seed: int = 0  #: of the random weights
    characters: str | None = None  #: what the tokenizer knows


@frozen
class TrainSettings:
    """How a run goes, whatever its algorithm."""

    seed: int = 0  #: of everything random in the run
    batch_size: int = field(default=8, validator=positive)  #: prompts (or rows of data) for each step
    #: most padded tokens in one forward pass; smaller needs less memory and changes no number; null takes 4,096 on a CPU,
    #: which is faster while it works near its caches, and 16,384 on a GPU
    micro_batch_tokens: int | None = field(default=None, validator=optional(positive))
    sampling: Sampling = field(factory=Sampling)  #: how completions are drawn
    episodes: Mapping[str, Any] = field(factory=dict)  #: how episodes of several turns are played
    max_invalid: float = field(default=0.1, validator=share)  #: a larger share of invalid rewards stops the run
    reward_timeout: float = field(default=60.0, validator=gt(0))  #: seconds for a reward or an episode of a batch
    checkpoint_every: int = field(default=50, validator=count)  #: steps between checkpoints; 0 writes only the last
    keep_checkpoints: int = field(default=2, validator=positive)  #: how many are kept
    rollouts_every: int = field(default=1, validator=count)  #: steps between rollouts written to disk; 0 writes none
    evaluate_every: int = field(default=0, validator=count)  #: steps between evaluations on the test split; 0 is never
    evaluate_tasks: int = field(default=256, validator=positive)  #: tasks of an evaluation
    mask_truncated: bool = False  #: leave completions cut by the token limit out of the loss, but in the baseline
    passes: tuple[str, ...] = ()  #: compiler passes of plugins to run besides those that parts ask for, such as capture
    threads: int | None = field(default=None, validator=optional(positive))  #: of torch on the CPU; null: its choice
