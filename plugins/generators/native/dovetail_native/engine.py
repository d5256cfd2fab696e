"""The loop: prefill each prompt once, then decode all samples together."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from transformers.cache_utils import DynamicCache

from dovetail import Generated, Ragged, Sampling
from dovetail_native.cache import keep_rows, shared_cache
from dovetail_native.rng import uniform
from dovetail_native.sampler import choose


class Engine:
    """Samples from one model under one sampling record.

    Args:
        model: A decoder-only transformers model, or a peft model around one.
        sampling: How to draw.
        compact_at: Share of ended rows at which the batch is made smaller.
    """

    def __init__(self, model: Any, sampling: Sampling, *, compact_at: float) -> None:
        self._model = model
        self._sampling = sampling
        self._compact_at = compact_at
        self._device = next(model.parameters()).device
        self._stops = torch.tensor(sampling.stop_tokens, dtype=torch.int64, device=self._device)
        self._context = getattr(model.config.get_text_config(), "max_position_embeddings", None)

    @torch.inference_mode()
    def generate(self, prompts: Ragged, samples: int, seeds: Tensor, *, batch_rows: int = 0) -> Generated:
        """Completions of all prompts, ``samples`` each, side by side."""
        size = max(1, batch_rows // samples) if batch_rows else len(prompts)
        pieces = [
            self._decode(
                prompts.select(range(start, min(start + size, len(prompts)))), samples, seeds[start * samples :]
            )
            for start in range(0, len(prompts), size)
        ]
        tokens, logprobs, lengths, stopped = (torch.cat(column) for column in zip(*pieces, strict=True))
        reasons = tuple("stop" if stop else "length" for stop in stopped.tolist())
        return Generated(Ragged.from_lengths(tokens, lengths), Ragged.from_lengths(logprobs, lengths), reasons)

    def _decode(self, prompts: Ragged, samples: int, seeds: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        prompts = prompts.to(self._device)
        count, width = len(prompts) * samples, int(prompts.lengths.max())
        limits = torch.full((len(prompts),), self._sampling.max_tokens, device=self._device)
        if self._context is not None:
            limits = torch.minimum(limits, self._context - prompts.lengths)
        limits = limits.repeat_interleave(samples)
        most = int(limits.max())
        batch = _Batch(self, prompts, samples, width, most, seeds[:count].to(self._device))
        tokens = torch.zeros((count, most), dtype=torch.int64, device=self._device)
        logprobs = torch.zeros((count, most), device=self._device)
        lengths, stopped = limits.clone(), torch.zeros(count, dtype=torch.bool, device=self._device)
        for step in range(most):
            chosen, scores = batch.draw(step)
            rows = batch.rows
            tokens[rows, step], logprobs[rows, step] = chosen, scores
            ended = torch.isin(chosen, self._stops) & batch.alive
            lengths[rows[ended]] = step + 1
            stopped[rows[ended]] = True
            if not batch.drop(ended | (limits[rows] <= step + 1)):
                break
            batch.advance(tokens[batch.rows, step], step)
        kept = torch.arange(most, device=self._device) < lengths[:, None]
        return tokens[kept].cpu(), logprobs[kept].cpu(), lengths.cpu(), stopped.cpu()

    def banned(self, step: int) -> Tensor | None:
        """Stop tokens while the completion is shorter than ``min_tokens``."""
        return self._stops if step < self._sampling.min_tokens else None


class _Batch:
    """The rows that are still being decoded, their cache and their next logits."""

    def __init__(self, engine: Engine, prompts: Ragged, samples: int, width: int, most: int, seeds: Tensor) -> None:
        self._engine = engine
        self._seeds = seeds
        device = prompts.values.device
        columns = torch.arange(width, device=device)
        mask = columns >= width - prompts.lengths[:, None]
        padded = torch.zeros((len(prompts), width), dtype=torch.int64, device=device)
        padded[mask] = prompts.values
        positions = (columns - (width - prompts.lengths[:, None])).clamp(min=0)
        cache = DynamicCache()
        ragged = not bool(mask.all())
        output = engine._model(
            input_ids=padded, attention_mask=mask.long() if ragged else None, position_ids=positions,
            past_key_values=cache, use_cache=True, logits_to_keep=1,
        )  # fmt: skip
        prompt_of_row = torch.arange(len(prompts), device=device).repeat_interleave(samples)
        self._cache = shared_cache(cache, prompt_of_row, width + most)
        self._logits = output.logits[:, -1][prompt_of_row]
        self._lengths = prompts.lengths[prompt_of_row]
        self._mask = None
        if ragged:
            room = torch.ones((len(prompt_of_row), most), dtype=torch.int64, device=device)
            self._mask = torch.cat([mask.long()[prompt_of_row], room], 1)
        self._width = width
        self.rows = torch.arange(len(prompt_of_row), device=device)
        self.alive = torch.ones(len(prompt_of_row), dtype=torch.bool, device=device)

    def draw(self, step: int) -> tuple[Tensor, Tensor]:
        """A token and its log-prob for each row."""
        sampling = self._engine._sampling
        numbers = None if sampling.greedy else uniform(self._seeds, step)
        return choose(self._logits, sampling, numbers, self._engine.banned(step))

    def drop(self, ended: Tensor) -> bool:
        """Mark rows as ended and, when enough have, make the batch smaller. False when none is left.

        Rows that have ended stay until then; what they go on to draw lies past their length.
        """
        self.alive &= ~ended
        alive = int(self.alive.sum())
        if alive == 0:
            return False
        if alive <= len(self.alive) * (1 - self._engine._compact_at):
            keep = self.alive.nonzero().squeeze(1)
            keep_rows(self._cache, keep)
            self.rows, self._seeds, self._lengths = self.rows[keep], self._seeds[keep], self._lengths[keep]
            self._mask = self._mask[keep] if self._mask is not None else None
            self.alive = self.alive[keep]
        return True

    def advance(self, tokens: Tensor, step: int) -> None:
        """Feed the drawn tokens."""
        mask = self._mask[:, : self._width + step + 1] if self._mask is not None else None
        # Rows past their end may also be past the context; any position will do for them.
        positions = self._lengths + step
        if self._engine._context is not None:
            positions = positions.clamp(max=self._engine._context - 1)
        output = self._engine._model(
            input_ids=tokens[:, None], attention_mask=mask, position_ids=positions[:, None],
            past_key_values=self._cache, use_cache=True,
        )  # fmt: skip
        self._logits = output.logits[:, -1]
