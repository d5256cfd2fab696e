"""Losses on preferences, beside TRL's own trainers and the papers."""

from __future__ import annotations

import asyncio
from typing import Any

import torch
import trl_preferences
from torch import Tensor
from torch.nn.functional import logsigmoid

import dovetail as dt
from dovetail.testing import tiny_rollouts
from dovetail_preferences.operations import sorted_references
from dovetail_testing.loss_checks import inputs, loss_and_gradients, row_inputs
from parity import Side, case


def batch(seed: int, dtype: torch.dtype) -> tuple[Any, dict[str, Any]]:
    """Pairs of ragged answers in random order, rewards 1 for the chosen and 0 for the rejected, and made-up values."""
    draw = torch.Generator().manual_seed(seed)
    rollouts = tiny_rollouts(lengths=torch.randint(1, 15, (12,), generator=draw).tolist(), group_size=2, seed=seed)
    given: dict[str, Any] = {
        **inputs(rollouts, seed=seed, spread=0.4, dtype=dtype),
        **row_inputs(rollouts, seed, dtype),
    }
    first = torch.randint(0, 2, (6,), generator=draw)
    labels = torch.stack([first, 1 - first], 1).flatten().to(dtype)
    return rollouts, {**given, "labels": labels, "rewards": rollouts.sampled.spread(labels)}


def ours(part: dt.Part, rollouts: Any, given: dict[str, Any], by: str) -> Side:
    """The value of a loss part and its gradient by one of its inputs."""
    value, gradients = loss_and_gradients(part, rollouts, given)
    gradient = gradients[by]
    return value, {by: gradient.values if isinstance(gradient, dt.Ragged) else gradient}


def shown(name: str, options: dict[str, Any]) -> str:
    return f"{name}({', '.join(f'{key}={value}' for key, value in options.items())})"


def trl_dpo(options: dict[str, Any], trl: dict[str, Any]) -> None:
    """A loss type of ours, and the fields that mean the same in TRL."""

    def run(seed: int, dtype: torch.dtype) -> tuple[Side, Side]:
        rollouts, given = batch(seed, dtype)
        references = sorted_references(rollouts, given["logprobs"], given["ref_logprobs"], given["labels"])
        given["baselines"] = asyncio.run(references)
        return ours(dt.losses.dpo(**options), rollouts, given, "logprobs"), trl_preferences.dpo_loss(given, trl)

    case(shown("dpo", options), "trl")(run)


for name in ("sigmoid", "hinge", "ipo", "nca_pair", "bco_pair", "sppo_hard", "apo_zero", "apo_down", "discopop"):
    trl_dpo({"loss_type": name, "beta": 0.3}, {"loss_types": [name], "beta": 0.3})
for name in ("robust", "exo_pair", "aot"):
    options = {"beta": 0.3, "label_smoothing": 0.2}
    trl_dpo({"loss_type": name, **options}, {"loss_types": [name], **options})


def trl_cpo(name: str, options: dict[str, Any], trl: dict[str, Any], *, average: bool) -> None:
    def run(seed: int, dtype: torch.dtype) -> tuple[Side, Side]:
        rollouts, given = batch(seed, dtype)
        theirs = trl_preferences.cpo_loss(given, trl, average=average)
        return ours(dt.losses[name](**options), rollouts, given, "logprobs"), theirs

    case(shown(name, options), "trl")(run)


trl_cpo("cpo", {"beta": 0.3, "nll_coef": 0.0}, {"loss_type": "sigmoid", "beta": 0.3}, average=False)
trl_cpo("cpo", {"loss_type": "hinge", "nll_coef": 0.0}, {"loss_type": "hinge", "beta": 0.1}, average=False)
trl_cpo("simpo", {"gamma": 0.7}, {"loss_type": "simpo", "beta": 2.0, "simpo_gamma": 0.7}, average=True)


def trl_kto(options: dict[str, Any]) -> None:
    def run(seed: int, dtype: torch.dtype) -> tuple[Side, Side]:
        rollouts, given = batch(seed, dtype)
        given["baselines"] = given["baselines"].mean().clamp(min=0).expand(len(rollouts))
        return ours(dt.losses.kto(**options), rollouts, given, "logprobs"), trl_preferences.kto_loss(given, options)

    case(shown("kto", options), "trl")(run)


trl_kto({"loss_type": "kto", "beta": 0.3, "desirable_weight": 1.3, "undesirable_weight": 0.8})
trl_kto({"loss_type": "apo_zero_unpaired", "beta": 0.3})


@case("bradley-terry(center=0.1)", "trl")
def bradley_terry(seed: int, dtype: torch.dtype) -> tuple[Side, Side]:
    rollouts, given = batch(seed, dtype)
    part = dt.losses["bradley-terry"](center=0.1)
    return ours(part, rollouts, given, "final_values"), trl_preferences.reward_loss(given, 0.1)


@case("orpo(coef=0.2)", "Hong et al. 2024, equations 2 to 7")
def orpo(seed: int, dtype: torch.dtype) -> tuple[Side, Side]:
    rollouts, given = batch(seed, dtype)
    live = given["logprobs"].with_values(given["logprobs"].values.clone().double().requires_grad_())
    probability = live.mean().exp()
    odds = probability / (1 - probability)
    chosen, rejected = given["labels"] == 1, given["labels"] == 0
    terms: Tensor = -live.mean()[chosen] - 0.2 * logsigmoid((odds[chosen] / odds[rejected]).log())
    terms.mean().backward()
    theirs = terms.mean().detach(), {"logprobs": live.values.grad}
    return ours(dt.losses.orpo(coef=0.2), rollouts, given, "logprobs"), theirs  # type: ignore[return-value]


@case("dpo(loss_type=cdpo, beta=0.3, label_smoothing=0.2)", "Mitchell 2023, A note on DPO with noisy preferences")
def conservative(seed: int, dtype: torch.dtype) -> tuple[Side, Side]:
    rollouts, given = batch(seed, dtype)
    live = given["logprobs"].with_values(given["logprobs"].values.clone().double().requires_grad_())
    gained = live.sum() - given["ref_logprobs"].sum().double()
    logits = 0.3 * (gained[given["labels"] == 1] - gained[given["labels"] == 0])
    loss = (-0.8 * logsigmoid(logits) - 0.2 * logsigmoid(-logits)).mean()
    loss.backward()
    part = dt.losses.dpo(loss_type="cdpo", beta=0.3, label_smoothing=0.2)
    theirs = loss.detach(), {"logprobs": live.values.grad}
    return ours(part, rollouts, given, "logprobs"), theirs  # type: ignore[return-value]
