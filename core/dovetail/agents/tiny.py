"""A small Llama-style model and a character tokenizer, built locally: for tests, tutorials and the quickstart."""

from __future__ import annotations

import math
import string
from typing import Any

from dovetail.settings import TinySettings

CHARACTERS = string.printable[:95] + "\n"


def build_tiny(settings: TinySettings) -> tuple[Any, Any]:
    """Build the model and its tokenizer. The same settings give the same weights."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    tokenizer = character_tokenizer(settings.characters or CHARACTERS)
    intermediate = settings.intermediate or settings.hidden * 8 // 3 // 8 * 8
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=settings.hidden,
        intermediate_size=intermediate,
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
    return model, tokenizer


def _spread(name: str, fan_in: int, layers: int) -> float:
    """Standard deviation of a weight: GPT-2's scheme, projections back to the residual stream scaled by depth."""
    if "embed" in name:
        return 0.02
    back_to_residual = name.endswith(("o_proj.weight", "down_proj.weight"))
    return 1 / math.sqrt(fan_in) / (math.sqrt(2 * layers) if back_to_residual else 1)


def character_tokenizer(characters: str) -> Any:
    """A tokenizer with one token for each character, an end and a padding token."""
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    vocabulary = {token: index for index, token in enumerate(["<pad>", "<end>", "<unk>", *dict.fromkeys(characters)])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex(r"[\s\S]"), behavior="isolated")
    tokenizer.decoder = decoders.Fuse()
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="<pad>",
        eos_token="<end>",
        unk_token="<unk>",
        clean_up_tokenization_spaces=False,
    )
