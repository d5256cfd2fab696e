"""The table of contents of dovetail: every hook, in the order in which a run calls it.

A part implements the hook of its kind with ``@dovetail.hookimpl`` and takes any subset of the arguments shown here:
what it asks for is what the graph computes for it. Each spec answers four questions: when it is called, with what,
what it must return, and what an error does.

Parts see only what counts. Per-token arguments of estimators and losses are :class:`~dovetail.ragged.Ragged` rows of
*sampled* tokens; rows whose reward is invalid are taken out before an estimator or a loss is called. So neither needs
a mask, and neither can get one wrong. Shapes: B sequences, P prompts, T tokens of one sequence.
"""

from __future__ import annotations

from collections.abc import Awaitable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pluggy

if TYPE_CHECKING:
    from torch import Tensor

    from dovetail.messages import Environment, Message, Task, Tasks
    from dovetail.ragged import Ragged
    from dovetail.rollouts import Advantages, Generated, Invalid, LossTerms, Rollouts
    from dovetail.sampling import Sampling

hookspec = pluggy.HookspecMarker("dovetail")


# ------------------------------------------------------------------------------------------------ a run begins
class RunSpecs:
    """Lifecycle: broadcast to every active part that implements them, whatever its kind."""

    @hookspec
    def on_run_start(self, run: Any) -> None:
        """Called once, before the first step, also after a resume. An error stops the run."""

    @hookspec
    def on_rollouts(self, run: Any, rollouts: Rollouts) -> None:
        """Called once rewards are known, before learning. May ``run.add_metrics({…})``. An error stops the run."""

    @hookspec
    def on_step_end(self, run: Any, step: int, metrics: Mapping[str, float]) -> None:
        """Called after each optimizer step with its metrics. May call ``run.stop(reason)``. An error stops the run."""

    @hookspec
    def on_checkpoint(self, run: Any, path: Path) -> None:
        """Called after a checkpoint is complete on disk. An error stops the run; the checkpoint stays."""

    @hookspec
    def on_run_end(self, run: Any, outcome: str) -> None:
        """Called once: ``done``, ``stopped: <reason>`` or ``failed: <error>``. An error is logged, not raised."""


# ------------------------------------------------------------------------------------------------ tasks and tokens
class EnvironmentSpecs:
    """Kind ``environments``: a factory of episodes. Its fields are its options."""

    @hookspec
    def tasks(self, split: str) -> Iterable[Task]:
        """Called before the first step (``train``) and before an evaluation (``test``).

        Returns tasks, finite or endless, the same ones at each call. An error, or no task at all, stops the run.
        """

    @hookspec
    def make(self) -> Awaitable[Environment]:
        """Called once for each episode. Async. Returns a fresh Environment. An error makes the sample INVALID."""


class GeneratorSpecs:
    """Kind ``generators``: turns prompts into sampled tokens."""

    @hookspec
    def generate(
        self,
        model: Any,  # a transformers model in eval mode, without gradients
        tokenizer: Any,  # its own, with pad and end tokens set
        prompts: Ragged,  # P rows of int64 token ids, each distinct task once
        samples: int,  # completions for each prompt; rows of one prompt lie side by side in the result
        sampling: Sampling,  # its stop tokens hold the end tokens of tokenizer and model
        seeds: Tensor,  # [P * samples] int64; a generator that keeps its promise draws a row from its seed alone
    ) -> Generated:
        """Called once for each step of a single-turn recipe.

        Returns P * samples completions and their log-probs. An error stops the run.
        """

    @hookspec
    def sync_weights(self, model: Any, version: int) -> None:
        """Called after each optimizer step, for generators that hold their own copy. An error stops the run."""


# ------------------------------------------------------------------------------------------------ rewards
class RewardSpecs:
    """Kind ``rewards``: a value for each sequence."""

    @hookspec
    def score(
        self,
        completions: Ragged,  # B rows of token ids from the policy's first token on
        prompts: Ragged,  # B rows of token ids before it
        mask: Ragged,  # rows of completions, bool: which tokens the policy sampled
        texts: Sequence[str],  # B decoded completions
        messages: Sequence[Sequence[Message]],  # B conversations, the completion last
        tasks: Tasks,  # B tasks; tasks["answer"] is a column
        groups: Tensor,  # [B] int64; rows of one task share a number
        steps: Ragged | None,  # turn boundaries, or None
        finish_reasons: Sequence[str],  # "stop" or "length" per row
        rollouts: Rollouts,  # all of the above
    ) -> Tensor | Sequence[float | Invalid]:
        """Called once for each batch of rollouts, off the training thread, with a deadline. May be async.

        Returns B finite numbers; ``dovetail.Invalid(reason)`` in the place of one that cannot be given. A row that
        raises or is not finite is INVALID, one that misses the deadline is TIMEOUT; neither is ever 0. Another number
        of values, or another type, stops the run.

        A reward with ``traits = ("cpu_heavy",)`` is called in a worker process, which is killed at the deadline. Where
        several processes share a run each scores some rows, of a reward that asks for no ``groups`` or ``rollouts``; one
        that does says by ``traits = ("by_row",)`` that no row's score depends on what is beside it.
        """


class WeightSpecs:
    """Kind ``weights``: how a reward counts in the total, where a number is not enough: ``weight: {use: …}``."""

    @hookspec
    def weigh(self, scores: Tensor, step: int) -> tuple[Tensor, float]:
        """Called once for each batch, with the ``[b]`` valid scores of the reward and the steps done before this one.

        Returns the ``[b]`` finite scores that count, and what they are multiplied by. An error stops the run.
        """


# ------------------------------------------------------------------------------------------------ advantages, losses
class AdvantageSpecs:
    """Kind ``advantages``: credit for each token. Called on valid rows only."""

    @hookspec
    def estimate(
        self,
        rewards: Tensor,  # [B] float32, the weighted total
        groups: Tensor,  # [B] int64; rows of one task share a number
        reward_parts: Mapping[str, Tensor],  # [B] float32 for each reward by name, without its weight
        reward_weights: Mapping[str, float],  # by name
        values: Ragged,  # value of the state before each sampled token
        final_values: Tensor,  # [B], value of the state after the last token
        logprobs: Ragged,  # of the policy, before this batch's optimizer steps
        ref_logprobs: Ragged,  # of the reference
        sampled_logprobs: Ragged,  # as the sampler saw them
        sampled: Ragged,  # the sampled tokens, for their lengths
        truncated: Tensor,  # [B] bool, cut by the token limit
        tasks: Tasks,  # B tasks
        steps: Ragged | None,  # turn boundaries, or None
        step_rewards: Ragged | None,  # the environment's reward for each turn, or None
    ) -> Tensor | Ragged | Advantages:
        """Called once for each batch, without gradients, on all rows of the batch that have a valid reward.

        Returns ``[B]``, or a Ragged over the sampled tokens, or Advantages with returns
        and metrics; finite. An error stops the run.
        """


class LossSpecs:
    """Kind ``losses``: terms, never a mean. The engine owns every denominator."""

    @hookspec
    def loss_terms(
        self,
        advantages: Ragged,  # credit per sampled token
        logprobs: Ragged,  # of the live policy; carries the gradient
        old_logprobs: Ragged,  # of the policy before this batch's first optimizer step
        ref_logprobs: Ragged,  # of the reference
        sampled_logprobs: Ragged,  # as the sampler saw them
        values: Ragged,  # of the live value model; carries the gradient
        old_values: Ragged,  # of the value model before this batch's first optimizer step
        returns: Ragged,  # targets of the value model
        entropy: Ragged,  # of the live policy's distribution at each token; carries the gradient
        rewards: Ragged,  # the total reward, spread over the tokens
        final_values: Tensor,  # [B], of the live value model (or [B, objectives]) after the last token; with gradient
        baselines: Tensor,  # [B], what the recipe measures each sequence by
        groups: Tensor,  # [B] int64; a loss that asks for them is given whole groups, their rows in order
        tasks: Tasks,  # B tasks
    ) -> LossTerms:
        """Called for each micro-batch, with gradients, on valid rows only.

        Returns LossTerms: a Ragged of terms (or ``[B]`` for a loss on whole sequences), a
        reduction tag, and metrics per token or per sequence, which the engine averages. An error stops the run.
        """


# ------------------------------------------------------------------------------------------------ sinks
class LoggerSpecs:
    """Kind ``loggers``: a sink. An error is reported once and the logger is switched off."""

    @hookspec
    def log_metrics(self, step: int, metrics: Mapping[str, float]) -> None:
        """Called after each step and each evaluation."""

    @hookspec
    def log_rollouts(self, step: int, rollouts: Rollouts) -> None:
        """Called after each step whose rollouts are kept."""

    @hookspec
    def log_artifact(self, path: Path, name: str) -> None:
        """Called for files worth keeping: the final model, a plot."""

    @hookspec
    def close(self) -> None:
        """Called once at the end of a run, also of one that failed."""


SPECS = (RunSpecs, EnvironmentSpecs, GeneratorSpecs, RewardSpecs, WeightSpecs, AdvantageSpecs, LossSpecs, LoggerSpecs)
