"""Loading models and tokenizers through transformers, and refusing those that would train wrongly."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from dovetail.errors import UserError
from dovetail.runtime.linear_logprob import Head, linear_logprob
from dovetail.settings import LoraSettings


@contextlib.contextmanager
def no_progress_bar() -> Iterator[None]:
    """transformers draws a bar for every file that it writes, into the middle of ours."""
    from transformers.utils import logging

    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            logging.enable_progress_bar()


def load_pretrained(name_or_path: str, dtype: torch.dtype, *, trust_remote_code: bool) -> tuple[Any, Any]:
    """Load a causal language model and its tokenizer from a folder or a hub name. Safetensors only.

    Raises:
        UserError: Neither exists, or the tokenizer has no end token.
    """
    from transformers import AutoModelForCausalLM, AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(name_or_path, trust_remote_code=trust_remote_code)
        with no_progress_bar():
            model = AutoModelForCausalLM.from_pretrained(
                name_or_path, dtype=dtype, trust_remote_code=trust_remote_code, use_safetensors=True
            )
    except (OSError, ValueError) as error:
        first_line = str(error).strip().splitlines()[0]
        hint = "give a folder in the Hugging Face layout with *.safetensors, or the name of a model on the hub"
        if Path(name_or_path).exists():
            hint = f"look into {Path(name_or_path).resolve()}: it needs config.json, *.safetensors and the tokenizer"
        raise UserError(f"the model {name_or_path!r} cannot be loaded: {first_line}", hint=hint) from error
    return model, tokenizer


def check_tokenizer(tokenizer: Any, name: str) -> None:
    """Give a tokenizer without a padding token its end token for that.

    Raises:
        UserError: It has no end token, so that no completion could ever end.
    """
    if tokenizer.eos_token_id is None:
        raise UserError(
            f"the tokenizer of {name!r} has no end token, so no completion could end",
            hint='set it and save the tokenizer: tokenizer.eos_token = "…"; tokenizer.save_pretrained(folder)',
        )
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token


def without_dropout(model: Any) -> Any:
    """Switch dropout off for good: log-probs of two passes must differ by the weights alone."""
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
        for name in ("dropout", "attention_dropout", "resid_dropout"):
            if isinstance(getattr(module, name, None), float):
                setattr(module, name, 0.0)
    return model.eval()


def add_lora(model: Any, settings: LoraSettings) -> Any:
    """Wrap a model with low-rank adapters.

    Raises:
        UserError: peft is not installed.
    """
    try:
        from peft import LoraConfig, get_peft_model
    except ImportError as error:
        raise UserError("LoRA needs peft", hint='pip install "dovetail-core[lora]"') from error
    config = LoraConfig(
        r=settings.rank,
        lora_alpha=settings.alpha if settings.alpha is not None else 2 * settings.rank,
        lora_dropout=settings.dropout,
        target_modules=list(settings.target_modules) or "all-linear",
        task_type="CAUSAL_LM",
    )
    return get_peft_model(model, config)


def head_of(model: Any, name: str) -> Head:
    """The output layer of a model.

    Raises:
        UserError: It is no plain linear layer.
    """
    layer = model.get_output_embeddings()
    if not isinstance(layer, torch.nn.Linear):
        raise UserError(
            f"the output layer of {name!r} is a {type(layer).__name__}, not a plain linear layer",
            hint="leave the output layer out of LoRA's target_modules",
        )
    config = model.config
    scale = float(getattr(config, "logit_scale", None) or 1.0) / float(getattr(config, "logits_scaling", None) or 1.0)
    return Head(layer.weight, layer.bias, scale, getattr(config, "final_logit_softcapping", None))


@torch.no_grad()
def takes_attention_mask(model: Any, hidden: Callable[[Tensor, Tensor, Tensor | None], Tensor]) -> bool:
    """Whether a model reads two rows with one prompt as one sequence, tried on a few tokens.

    False where attention is windowed, where its implementation takes no mask, or where a state runs along the sequence.
    """
    config = model.config.get_text_config()
    windowed = any("full" not in kind for kind in getattr(config, "layer_types", None) or ())
    if windowed or config._attn_implementation not in ("sdpa", "eager") or config.vocab_size < 6:
        return False
    device = next(model.parameters()).device
    rows = torch.tensor([[0, 1, 2, 3], [0, 1, 4, 5]], device=device)
    apart = hidden(rows, torch.ones_like(rows), None)
    positions = torch.tensor([[0, 1, 2, 3, 2, 3]], device=device)
    mask = torch.ones((6, 6), dtype=torch.bool, device=device).tril()
    mask[4:, 2:4] = False
    together = hidden(torch.arange(6, device=device)[None], mask[None, None], positions)[0]
    expected = torch.cat([apart[0], apart[1, 2:]])
    tolerance = 1e-3 if expected.dtype in (torch.float32, torch.float64) else 0.1
    return torch.allclose(together.float(), expected.float(), atol=tolerance, rtol=tolerance)


@torch.no_grad()
def check_head(model: Any, hidden: Tensor, tokens: Tensor, head: Head, name: str) -> None:
    """Compare our log-probs with those of the model's own logits on a few tokens.

    Raises:
        UserError: They differ: the model does something after its output layer that dovetail does not know.
    """
    expected = torch.log_softmax(model(input_ids=tokens, use_cache=False).logits[0, :-1].float(), -1)
    targets = tokens[0, 1:]
    ours, _ = linear_logprob(hidden[0, :-1], head, targets)
    theirs = expected.gather(-1, targets[:, None]).squeeze(-1)
    tolerance = 1e-3 if hidden.dtype == torch.float32 else 0.1
    if not torch.allclose(ours.float(), theirs, atol=tolerance, rtol=tolerance):
        gap = (ours.float() - theirs).abs().max().item()
        raise UserError(
            f"the log-probs of {name!r} differ by {gap:.2g} from its own logits: its output layer does more than "
            "dovetail knows",
            hint="report the architecture; until then use another model",
        )
