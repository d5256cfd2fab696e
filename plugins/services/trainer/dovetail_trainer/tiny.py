"""A small model and its tokenizer, built on the spot: ``dt.Agent.tiny``, for tests, tutorials and trying things out."""

from __future__ import annotations

import math
import string
from typing import Any

import torch

from dovetail.settings import TinySettings


def build_tiny(settings: TinySettings, dtype: torch.dtype) -> tuple[Any, Any]:
    """A small Llama-style model and a character tokenizer. The same settings give the same weights."""
    from transformers import LlamaConfig, LlamaForCausalLM

    tokenizer = _character_tokenizer(settings.characters or string.printable[:95] + "\n")
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=settings.hidden,
        intermediate_size=settings.intermediate or settings.hidden * 8 // 3 // 8 * 8,
        num_hidden_layers=settings.layers,
        num_attention_heads=settings.heads,
        num_key_value_heads=settings.heads,
        max_position_embeddings=settings.context,
        tie_word_embeddings=False,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    model = LlamaForCausalLM(config)
    generator = torch.Generator().manual_seed(settings.seed)
    with torch.no_grad():
        for name, parameter in sorted(model.named_parameters()):
            if parameter.ndim == 2:
                parameter.normal_(0.0, _spread(name, parameter.shape[1], settings.layers), generator=generator)
    return model.to(dtype), tokenizer


def _spread(name: str, fan_in: int, layers: int) -> float:
    """Standard deviation of a weight: GPT-2's scheme, projections back to the residual stream scaled by depth."""
    if "embed" in name:
        return 0.02
    back_to_residual = name.endswith(("o_proj.weight", "down_proj.weight"))
    return 1 / math.sqrt(fan_in) / (math.sqrt(2 * layers) if back_to_residual else 1)


def _character_tokenizer(characters: str) -> Any:
    """One token for each character, and for the padding, the end and what is unknown."""
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    special = {"pad_token": "<pad>", "eos_token": "<end>", "unk_token": "<unk>"}
    vocabulary = {token: index for index, token in enumerate([*special.values(), *dict.fromkeys(characters)])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex(r"[\s\S]"), behavior="isolated")
    tokenizer.decoder = decoders.Fuse()
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, clean_up_tokenization_spaces=False, **special)
