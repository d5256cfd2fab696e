"""The loop: prefill each prompt once, then decode all samples together."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from dovetail import Generated, Ragged, Sampling
from dovetail_native.blocks import BlockDecoder, decodes
from dovetail_native.cache import ModelDecoder, prefill
from dovetail_native.rng import uniform
from dovetail_native.sampler import choose

_AHEAD = 32  # random numbers drawn at a time


class Engine:
    """Samples from one model under one sampling record.

    Args:
        model: A decoder-only transformers model, or a peft model around one.
        sampling: How to draw.
        compact_at: Share of ended rows at which the batch is made smaller.
        blocks: Decode Llama's block by few operations where the model is made of it.
    """

    def __init__(self, model: Any, sampling: Sampling, *, compact_at: float, blocks: bool = True) -> None:
        self._model = model
        self._sampling = sampling
        self._compact_at = compact_at
        self._device = next(model.parameters()).device
        self._stops = torch.tensor(sampling.stop_tokens, dtype=torch.int64, device=self._device)
        self._context = getattr(model.config.get_text_config(), "max_position_embeddings", None)
        self._blocks = blocks

    @torch.inference_mode()
    def generate(self, prompts: Ragged, samples: int, seeds: Tensor, *, batch_rows: int = 0) -> Generated:
        """Completions of all prompts, ``samples`` each, side by side."""
        size = max(1, batch_rows // samples) if batch_rows else len(prompts)
        pieces = [
            self._decode(prompts.select(range(at, min(at + size, len(prompts)))), samples, seeds[at * samples :])
            for at in range(0, len(prompts), size)
        ]
        tokens, logprobs, lengths, stopped = (torch.cat(column) for column in zip(*pieces, strict=True))
        reasons = tuple("stop" if stop else "length" for stop in stopped.tolist())
        return Generated(Ragged.from_lengths(tokens, lengths), Ragged.from_lengths(logprobs, lengths), reasons)

    def _decode(self, prompts: Ragged, samples: int, seeds: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        prompts = prompts.to(self._device)
        limits = torch.full((len(prompts),), self._sampling.max_tokens, device=self._device)
        if self._context is not None:
            limits = torch.minimum(limits, self._context - prompts.lengths)
        count, most, soonest = len(prompts) * samples, int(limits.max()), int(limits.min())
        limits = limits.repeat_interleave(samples)
        batch = _Batch(self, prompts, samples, most, seeds[:count].to(self._device))
        tokens = torch.zeros((count, most), dtype=torch.int64, device=self._device)
        logprobs = torch.zeros((count, most), device=self._device)
        lengths, stopped = limits.clone(), torch.zeros(count, dtype=torch.bool, device=self._device)
        for step in range(most):
            chosen, scores = batch.draw(step)
            rows = batch.rows
            tokens[rows, step], logprobs[rows, step] = chosen, scores
            if len(self._stops) and step + 1 > self._sampling.min_tokens:
                ended = torch.isin(chosen, self._stops) & batch.alive
                lengths[rows[ended]] = step + 1
                stopped[rows[ended]] = True
                batch.alive &= ~ended
            if step + 1 >= soonest:
                batch.alive &= limits[rows] > step + 1
            if not batch.compact():
                break
            batch.advance(tokens[batch.rows, step], step)
        kept = torch.arange(most, device=self._device) < lengths[:, None]
        return tokens[kept].cpu(), logprobs[kept].cpu(), lengths.cpu(), stopped.cpu()


class _Batch:
    """The rows that are still being decoded, and their next logits."""

    def __init__(self, engine: Engine, prompts: Ragged, samples: int, most: int, seeds: Tensor) -> None:
        self._engine, self._sampling = engine, engine._sampling
        self._seeds = seeds
        self._numbers = torch.empty(0)
        rows = torch.arange(len(prompts), device=seeds.device).repeat_interleave(samples)
        prefilled = prefill(engine._model, prompts)
        decoder = BlockDecoder if engine._blocks and decodes(engine._model) else ModelDecoder
        self._decoder = decoder(engine._model, prefilled, rows, most)
        self._logits = prefilled.logits[rows]
        self.rows = torch.arange(len(rows), device=seeds.device)
        self.alive = torch.ones(len(rows), dtype=torch.bool, device=seeds.device)

    def draw(self, step: int) -> tuple[Tensor, Tensor]:
        """A token and its log-prob for each row."""
        banned = self._engine._stops if step < self._sampling.min_tokens else None
        if self._sampling.greedy:
            return choose(self._logits, self._sampling, None, banned)
        if step % _AHEAD == 0:
            self._numbers = uniform(self._seeds[:, None], torch.arange(step, step + _AHEAD, device=self._seeds.device))
        return choose(self._logits, self._sampling, self._numbers[:, step % _AHEAD], banned)

    def compact(self) -> bool:
        """Make the batch smaller when enough rows have ended. False when none is left.

        Rows that have ended stay until then; what they go on to draw lies past their length.
        """
        alive = int(self.alive.sum())
        if alive and alive <= len(self.alive) * (1 - self._engine._compact_at):
            keep = self.alive.nonzero().squeeze(1)
            self._decoder.keep(keep)
            self.rows, self._seeds, self.alive = self.rows[keep], self._seeds[keep], self.alive[keep]
            self._numbers = self._numbers[keep] if len(self._numbers) else self._numbers
        return alive > 0

    def advance(self, tokens: Tensor, step: int) -> None:
        """Feed the drawn tokens."""
        self._logits = self._decoder.advance(tokens, step)
