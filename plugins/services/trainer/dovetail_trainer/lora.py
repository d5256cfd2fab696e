"""Low-rank adapters, through peft."""

from __future__ import annotations

from typing import Any

import torch

from dovetail.errors import UserError
from dovetail.settings import LoraSettings


def add_lora(model: Any, settings: LoraSettings) -> Any:
    """A peft model around ``model``. The same settings give the same adapters."""
    try:
        from peft import LoraConfig, get_peft_model
    except ImportError as error:
        raise UserError("LoRA needs peft", hint='pip install "dovetail[lora]"') from error
    alpha = settings.alpha if settings.alpha is not None else 2 * settings.rank
    layers = list(settings.target_modules) or "all-linear"
    config = LoraConfig(
        r=settings.rank, lora_alpha=alpha, lora_dropout=settings.dropout, target_modules=layers, task_type="CAUSAL_LM"
    )
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(0)
        return get_peft_model(model, config)
