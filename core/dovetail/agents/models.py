"""Models and their tokenizers; what would train wrongly is refused."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor

from dovetail.errors import UserError
from dovetail.runtime.linear_logprob import Head, linear_logprob

VALUE_HEAD = "value_head.safetensors"  # beside the model's own files


@contextlib.contextmanager
def no_progress_bar() -> Iterator[None]:
    """transformers draws a bar for every file that it reads or writes, into the middle of ours."""
    from transformers.utils import logging

    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            logging.enable_progress_bar()


def load_pretrained(name_or_path: str, dtype: torch.dtype, *, trust_remote_code: bool) -> tuple[Any, Any]:
    """A causal language model and its tokenizer, from a folder or a hub name. Safetensors only."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(name_or_path, trust_remote_code=trust_remote_code)
        with no_progress_bar():
            model = AutoModelForCausalLM.from_pretrained(
                name_or_path, dtype=dtype, trust_remote_code=trust_remote_code, use_safetensors=True
            )
    except (OSError, ValueError) as error:
        told, folder = str(error).strip().splitlines()[0], Path(name_or_path).resolve()
        hint = f"look into {folder}: it needs config.json, *.safetensors and the tokenizer"
        if not folder.exists():
            told, hint = f"no folder {folder}; on the hub: {told}", "name a folder or a hub model with *.safetensors"
        raise UserError(f"the model {name_or_path!r} cannot be loaded: {told}", hint=hint) from error
    if tokenizer.eos_token_id is None:
        problem = f"the tokenizer of {name_or_path!r} has no end token, so no completion could end"
        hint = 'set it and save the tokenizer: tokenizer.eos_token = "…"; tokenizer.save_pretrained(folder)'
        raise UserError(problem, hint=hint)
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    return model, tokenizer


def saved_objectives(head: Path) -> tuple[str, ...]:
    """What the values of a saved head are called; nothing if it has one."""
    told: Any = safe_open(head, "pt")
    return tuple(json.loads((told.metadata() or {}).get("objectives", "[]")))


def without_dropout(model: Any) -> Any:
    """Switch dropout off for good: log-probs of two passes must differ by the weights alone."""
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
        for name in ("dropout", "attention_dropout", "resid_dropout"):
            if isinstance(getattr(module, name, None), float):
                setattr(module, name, 0.0)
    return model.eval()


def checked_head(model: Any, name: str, tokens: Tensor, hidden: Tensor) -> Head:
    """The output layer, if it alone leads from ``hidden`` ``[1, T, D]`` to the model's logits of ``tokens`` ``[1, T]``."""
    layer, config = model.get_output_embeddings(), model.config
    if not isinstance(layer, torch.nn.Linear):
        problem = f"the output layer of {name!r} is a {type(layer).__name__}, not a plain linear layer"
        raise UserError(problem, hint="leave the output layer out of LoRA's target_modules")
    scale = float(getattr(config, "logit_scale", None) or 1.0) / float(getattr(config, "logits_scaling", None) or 1.0)
    head = Head(layer.weight, layer.bias, scale, getattr(config, "final_logit_softcapping", None))
    ours = linear_logprob(hidden[0, :-1], head, tokens[0, 1:])[0].float()
    logits = model(input_ids=tokens, use_cache=False).logits[0, :-1].float()
    theirs = torch.log_softmax(logits, -1).gather(-1, tokens[0, 1:, None]).squeeze(-1)
    exact = hidden.dtype == torch.float32 and not torch.is_autocast_enabled(hidden.device.type)
    tolerance = 1e-3 if exact else 0.1
    if not torch.allclose(ours, theirs, atol=tolerance, rtol=tolerance):
        gap = f"the log-probs of {name!r} differ by {(ours - theirs).abs().max():.2g} from its own logits"
        hint = "report the architecture; until then use another model"
        raise UserError(f"{gap}: its output layer does more than dovetail knows", hint=hint)
    return head


@torch.no_grad()
def takes_attention_mask(model: Any, hidden: Callable[..., Tensor]) -> bool:
    """Whether a model reads two rows with one prompt as one sequence, tried on a few tokens.

    False where attention is windowed, where its implementation takes no mask, or where a state runs along the sequence.
    """
    config = model.config.get_text_config()
    windowed = any("full" not in kind for kind in getattr(config, "layer_types", None) or ())
    if windowed or config._attn_implementation not in ("sdpa", "eager") or config.vocab_size < 6:
        return False
    device = next(model.parameters()).device
    rows = torch.tensor([[0, 1, 2, 3], [0, 1, 4, 5]], device=device)
    apart = hidden(rows)
    positions = torch.tensor([[0, 1, 2, 3, 2, 3]], device=device)
    mask = torch.ones((6, 6), dtype=torch.bool, device=device).tril()
    mask[4:, 2:4] = False
    together = hidden(torch.arange(6, device=device)[None], mask[None, None], positions)[0]
    expected = torch.cat([apart[0], apart[1, 2:]])
    tolerance = 1e-3 if expected.dtype in (torch.float32, torch.float64) else 0.1
    return torch.allclose(together.float(), expected.float(), atol=tolerance, rtol=tolerance)
