"""TRL's own losses on pairs: the methods of its trainers, on an object that has only what they read."""

from __future__ import annotations

from collections import defaultdict
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor


def bare(cls: Any, **fields: Any) -> Any:
    """A trainer without a model or data. Whatever it gathers over processes is what it has."""
    made = object.__new__(cls)
    accelerator = SimpleNamespace(
        device=torch.device("cpu"), gather=lambda value: value, gather_for_metrics=lambda value: value
    )
    vars(made).update(
        accelerator=accelerator, model=SimpleNamespace(training=False), aux_loss_enabled=False,
        precompute_ref_logps=True, _metrics=defaultdict(lambda: defaultdict(list)), _total_train_tokens=0, **fields,
    )  # fmt: skip
    return made


def finished(loss: Tensor, live: Tensor, name: str) -> Any:
    loss.backward()
    return loss.detach(), {name: live.grad}


def answers(given: dict[str, Any]) -> tuple[Any, Tensor, Tensor, Tensor]:
    """The live log-probs, those padded, their mask, and the rows in TRL's order: all chosen, then all rejected."""
    live = given["logprobs"].with_values(given["logprobs"].values.clone().requires_grad_())
    order = torch.cat([(given["labels"] == 1).nonzero(), (given["labels"] == 0).nonzero()]).squeeze(1)
    mask = live.map(torch.ones_like).to_padded()
    return live, live.to_padded()[order], mask[order], order


def outputs(logprobs: Tensor) -> Any:
    """What TRL's fused head gives."""
    blank = torch.zeros_like(logprobs).detach()
    return SimpleNamespace(log_probs=logprobs, entropy=blank, mean_logits=blank, is_top1=blank.bool())


def collated(mask: Tensor, **further: Any) -> dict[str, Any]:
    """A batch whose prompts are one token long."""
    whole = torch.nn.functional.pad(mask, (1, 0)).long()
    return {"input_ids": whole, "attention_mask": torch.ones_like(whole), "completion_mask": whole, **further}


def dpo_loss(given: dict[str, Any], fields: dict[str, Any]) -> Any:
    """Value and gradient of ``DPOTrainer._compute_loss``."""
    from trl import DPOTrainer

    live, logprobs, mask, order = answers(given)
    defaults = {"label_smoothing": 0.0, "f_divergence_type": "reverse_kl", "ld_alpha": None, "use_weighting": False}
    side = bare(DPOTrainer, **{**defaults, "loss_weights": [1.0], "args": SimpleNamespace(discopop_tau=0.05), **fields})
    chosen, rejected = given["ref_logprobs"].sum()[order].chunk(2)
    rows = collated(mask, ref_chosen_logps=chosen, ref_rejected_logps=rejected)
    before = torch.get_default_dtype()
    torch.set_default_dtype(logprobs.dtype)  # it makes tensors of its options
    try:
        loss = side._compute_loss(lambda **_: outputs(logprobs), rows, False)
    finally:
        torch.set_default_dtype(before)
    return finished(loss, live.values, "logprobs")


def cpo_loss(given: dict[str, Any], fields: dict[str, Any], *, average: bool) -> Any:
    """Value and gradient of the mean of ``CPOTrainer.cpo_loss``, on sums or means of log-probs."""
    from trl.experimental.cpo import CPOTrainer

    live, logprobs, mask, _ = answers(given)
    rows = logprobs.sum(1) / mask.sum(1) if average else logprobs.sum(1)
    losses, *_ = bare(CPOTrainer, alpha=0.0, label_smoothing=0.0, **fields).cpo_loss(*rows.chunk(2))
    return finished(losses.mean(), live.values, "logprobs")


def kto_loss(given: dict[str, Any], fields: dict[str, Any]) -> Any:
    """Value and gradient of ``KTOTrainer._compute_loss``, with the baseline as the divergence that it estimates."""
    from trl import KTOTrainer

    live, logprobs, mask, order = answers(given)
    weights = {"desirable_weight": 1.0, "undesirable_weight": 1.0}
    side = bare(KTOTrainer, calculate_KL=fields["loss_type"] == "kto", **{**weights, **fields})
    side._compute_kl_logps = lambda model, batch: given["baselines"]
    labels, references = given["labels"][order].bool(), given["ref_logprobs"].sum()[order]
    rows = collated(mask, label=labels, ref_logps=references, ref_KL_logps=torch.zeros_like(given["baselines"]))
    loss = side._compute_loss(lambda **_: outputs(logprobs), rows, False)
    return finished(loss, live.values, "logprobs")


def reward_loss(given: dict[str, Any], center: float) -> Any:
    """Value and gradient of ``RewardTrainer.compute_loss``."""
    from trl import RewardTrainer

    live = given["final_values"].clone().requires_grad_()
    _, _, mask, order = answers(given)
    side = bare(RewardTrainer, args=SimpleNamespace(center_rewards_coefficient=center))
    loss = side.compute_loss(lambda **_: SimpleNamespace(logits=live[order, None]), collated(mask))
    return finished(loss, live, "final_values")
