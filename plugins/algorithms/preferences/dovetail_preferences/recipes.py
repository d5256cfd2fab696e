"""The recipes: pairs, or labelled answers, and a loss that tells them apart."""

from __future__ import annotations

from typing import Any, Literal

import dovetail as dt
from dovetail_preferences.dpo import LossType
from dovetail_preferences.operations import kl_baseline, mismatched, sorted_references
from dovetail_preferences.references import ref_logprobs


@dt.recipe
def dpo(
    policy: Any,
    ref_policy: Any,
    pairs: Any,
    *,
    loss_type: LossType = "sigmoid",
    beta: float = 0.1,
    label_smoothing: float = 0.0,
    normalize: bool = True,
    discopop_tau: float = 0.05,
    nll_coef: float = 0.0,
    ref_cache: str | None = None,
    epochs: int = 1,
    minibatches: int = 1,
) -> None:
    """Direct preference optimisation (Rafailov et al. 2023, arXiv 2305.18290) and its family, on pairs of answers.

    Args:
        loss_type: See the loss ``dpo``.
        beta: See the loss ``dpo``.
        label_smoothing: See the loss ``dpo``.
        normalize: See the loss ``dpo``.
        discopop_tau: See the loss ``dpo``.
        nll_coef: See the loss ``dpo``.
        ref_cache: A file that keeps the reference's log-probs, for later epochs and runs; null computes them each time.
        epochs: Times that each batch is learnt from; passes over the data come from the number of steps.
        minibatches: Optimizer steps for each batch.
    """
    rewards = dt.reward("label", rollout=pairs, name="rewards")
    logprobs = dt.logprobs(policy, pairs, name="policy_logprobs")
    references = ref_logprobs(ref_policy, pairs, ref_cache)
    baselines = {}
    if loss_type == "aot":
        baselines["baselines"] = sorted_references(pairs, logprobs, references, rewards, name="baselines")
    loss = dt.loss(
        "dpo",
        logprobs,
        references,
        rewards,
        **baselines,
        loss_type=loss_type,
        beta=beta,
        label_smoothing=label_smoothing,
        normalize=normalize,
        discopop_tau=discopop_tau,
        nll_coef=nll_coef,
        name="loss",
    )
    dt.set_loss(loss, epochs=epochs, minibatches=minibatches)


@dt.recipe
def online_dpo(
    policy: Any,
    ref_policy: Any,
    prompts: Any,
    *,
    samples: int = 2,
    loss_type: LossType = "sigmoid",
    beta: float = 0.1,
    epochs: int = 1,
    minibatches: int = 1,
) -> None:
    """DPO on the policy's own answers, of which the run's rewards prefer one (Guo et al. 2024, arXiv 2402.04792).

    Args:
        samples: Answers for each prompt; the best and the worst are the pair. Usual range 2 to 8.
        loss_type: See the loss ``dpo``; not ``aot``.
        beta: See the loss ``dpo``.
        epochs: Times that each batch is learnt from. Usual range 1 to 4.
        minibatches: Optimizer steps in one epoch.
    """
    if samples < 2:
        problem = f"online-dpo compares the answers to a prompt, and samples is {samples}"
        raise dt.RecipeError(problem, hint="samples: 2, or more")
    completions = dt.generate(policy, prompts, samples=samples, name="completions")
    rewards = dt.run_rewards(completions)
    logprobs = dt.logprobs(policy, prompts, completions, name="policy_logprobs")
    references = dt.logprobs(ref_policy, prompts, completions, name="ref_logprobs")
    loss = dt.loss("dpo", logprobs, references, rewards, loss_type=loss_type, beta=beta, name="loss")
    dt.set_loss(loss, epochs=epochs, minibatches=minibatches)


@dt.recipe
def cpo(
    policy: Any,
    pairs: Any,
    *,
    loss_type: Literal["sigmoid", "hinge"] = "sigmoid",
    beta: float = 0.1,
    nll_coef: float = 1.0,
    label_smoothing: float = 0.0,
    epochs: int = 1,
    minibatches: int = 1,
) -> None:
    """Contrastive preference optimisation (Xu et al. 2024, arXiv 2401.08417): no reference, a pull to the chosen answer.

    Args:
        loss_type: See the loss ``cpo``.
        beta: See the loss ``cpo``.
        nll_coef: See the loss ``cpo``.
        label_smoothing: See the loss ``cpo``.
        epochs: Times that each batch is learnt from; passes over the data come from the number of steps.
        minibatches: Optimizer steps for each batch.
    """
    options = {"loss_type": loss_type, "beta": beta, "nll_coef": nll_coef, "label_smoothing": label_smoothing}
    _without_reference("cpo", policy, pairs, options, epochs, minibatches)


@dt.recipe
def simpo(
    policy: Any,
    pairs: Any,
    *,
    beta: float = 2.0,
    gamma: float = 1.0,
    label_smoothing: float = 0.0,
    epochs: int = 1,
    minibatches: int = 1,
) -> None:
    """Simple preference optimisation (Meng et al. 2024, arXiv 2405.14734): mean log-probabilities, a margin, no reference.

    Args:
        beta: See the loss ``simpo``.
        gamma: See the loss ``simpo``.
        label_smoothing: See the loss ``simpo``.
        epochs: Times that each batch is learnt from; passes over the data come from the number of steps.
        minibatches: Optimizer steps for each batch.
    """
    options = {"beta": beta, "gamma": gamma, "label_smoothing": label_smoothing}
    _without_reference("simpo", policy, pairs, options, epochs, minibatches)


@dt.recipe
def orpo(policy: Any, pairs: Any, *, coef: float = 0.1, epochs: int = 1, minibatches: int = 1) -> None:
    """Odds ratio preference optimisation (Hong et al. 2024, arXiv 2403.07691): sft and preferences in one stage.

    Args:
        coef: See the loss ``orpo``.
        epochs: Times that each batch is learnt from; passes over the data come from the number of steps.
        minibatches: Optimizer steps for each batch.
    """
    _without_reference("orpo", policy, pairs, {"coef": coef}, epochs, minibatches)


def _without_reference(
    loss: str, policy: Any, pairs: Any, options: dict[str, Any], epochs: int, minibatches: int
) -> None:
    rewards = dt.reward("label", rollout=pairs, name="rewards")
    logprobs = dt.logprobs(policy, pairs, name="policy_logprobs")
    node = dt.loss(loss, logprobs, rewards, **options, name="loss")
    dt.set_loss(node, epochs=epochs, minibatches=minibatches)


@dt.recipe
def kto(
    policy: Any,
    ref_policy: Any,
    labelled: Any,
    *,
    loss_type: Literal["kto", "apo_zero_unpaired"] = "kto",
    beta: float = 0.1,
    desirable_weight: float = 1.0,
    undesirable_weight: float = 1.0,
    ref_cache: str | None = None,
    epochs: int = 1,
    minibatches: int = 1,
) -> None:
    """Kahneman-Tversky optimisation (Ethayarajh et al. 2024, arXiv 2402.01306), on answers that are good or bad.

    Args:
        loss_type: See the loss ``kto``.
        beta: See the loss ``kto``.
        desirable_weight: See the loss ``kto``.
        undesirable_weight: See the loss ``kto``.
        ref_cache: A file that keeps the reference's log-probs, for later epochs and runs; null computes them each time.
        epochs: Times that each batch is learnt from; passes over the data come from the number of steps.
        minibatches: Optimizer steps for each batch.
    """
    rewards = dt.reward("label", rollout=labelled, name="rewards")
    logprobs = dt.logprobs(policy, labelled, name="policy_logprobs")
    references = ref_logprobs(ref_policy, labelled, ref_cache)
    baselines = {}
    if loss_type == "kto":
        others = mismatched(policy, labelled, name="mismatched")
        passes = (dt.logprobs(agent, others) for agent in (policy, ref_policy))
        baselines["baselines"] = kl_baseline(*passes, name="baselines")
    loss = dt.loss(
        "kto",
        labelled,
        logprobs,
        references,
        rewards,
        **baselines,
        loss_type=loss_type,
        beta=beta,
        desirable_weight=desirable_weight,
        undesirable_weight=undesirable_weight,
        name="loss",
    )
    dt.set_loss(loss, epochs=epochs, minibatches=minibatches)
