"""Prompts to ``model.generate`` and back."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from transformers import GenerationConfig

from dovetail import Generated, Ragged, Sampling


def generate(model: Any, tokenizer: Any, prompts: Ragged, samples: int, sampling: Sampling, seeds: Tensor) -> Generated:
    """Pad on the left, generate, and take log-probs from the raw logits."""
    device = next(model.parameters()).device
    prompts = prompts.to(device).repeat(samples)
    width = int(prompts.lengths.max())
    room = _room(model, width, sampling)
    mask = torch.arange(width, device=device) >= width - prompts.lengths[:, None]
    padded = torch.full((len(prompts), width), tokenizer.pad_token_id, device=device)
    padded[mask] = prompts.values
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(int(seeds.sum() % (1 << 62)))
        output = model.generate(
            input_ids=padded, attention_mask=mask.long(), generation_config=_config(tokenizer, sampling, room)
        )
    drawn = output.sequences[:, width:]
    logits = torch.stack(output.logits, 1).float() / sampling.scoring_temperature
    logprobs = torch.log_softmax(logits, -1).gather(-1, drawn[..., None]).squeeze(-1)
    ends = torch.isin(drawn, torch.tensor(sampling.stop_tokens, device=device))
    # Tokens up to and with the first stop token; what generate pads after it is cut off.
    kept = ends.long().cumsum(1) - ends.long() == 0
    reasons = tuple("stop" if stop else "length" for stop in ends.any(1).tolist())
    lengths = kept.sum(1).cpu()
    return Generated(
        Ragged.from_lengths(drawn[kept].cpu(), lengths), Ragged.from_lengths(logprobs[kept].cpu(), lengths), reasons
    )


def _config(tokenizer: Any, sampling: Sampling, room: int) -> GenerationConfig:
    drawn = {}
    if not sampling.greedy:
        drawn = {
            "temperature": sampling.temperature, "top_k": sampling.top_k, "top_p": sampling.top_p,
            "min_p": sampling.min_p or None,
        }  # fmt: skip
    return GenerationConfig(
        do_sample=not sampling.greedy, max_new_tokens=room, min_new_tokens=sampling.min_tokens or None,
        eos_token_id=list(sampling.stop_tokens), pad_token_id=tokenizer.pad_token_id,
        return_dict_in_generate=True, output_logits=True, **drawn,
    )  # fmt: skip


def _room(model: Any, longest: int, sampling: Sampling) -> int:
    context = getattr(model.config.get_text_config(), "max_position_embeddings", None)
    return min(sampling.max_tokens, context - longest) if context is not None else sampling.max_tokens
