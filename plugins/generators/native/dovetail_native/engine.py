"""The loop: prefill each prompt once, then decode all samples together."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from dovetail import Generated, Ragged, Sampling
from dovetail_native.blocks import BlockDecoder, decodes
from dovetail_native.cache import ModelDecoder, prefill
from dovetail_native.rng import uniform
from dovetail_native.sampler import choose

_AHEAD = 32  # random numbers drawn at a time
_WORTH_THREADS = 2e7  # multiplications in one product; below, waking a second thread costs more than it does


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
        limits = limits.repeat_interleave(samples)
        batch = _Batch(self, prompts, samples, int(limits.max()), seeds[: len(limits)].to(self._device))
        drawn = _Drawn(limits)
        with self._fit_threads(len(limits)):
            for step in range(int(limits.max())):
                batch.alive &= ~drawn.add(step, batch.rows, *batch.draw(step), self._stops_after(step))
                if not batch.compact():
                    break
                batch.advance(drawn.tokens[batch.rows, step], step)
        return drawn.flat()

    def _stops_after(self, step: int) -> Tensor | None:
        return self._stops if len(self._stops) and step + 1 > self._sampling.min_tokens else None

    @contextlib.contextmanager
    def _fit_threads(self, rows: int) -> Iterator[None]:
        """One thread while a decode step's products are small; it depends on sizes alone, so numbers repeat."""
        threads, width = torch.get_num_threads(), self._model.config.get_text_config().hidden_size
        small = self._device.type == "cpu" and 2 * rows * width**2 < _WORTH_THREADS
        try:
            torch.set_num_threads(1 if small else threads)
            yield
        finally:
            torch.set_num_threads(threads)


class _Drawn:
    """What has been drawn for each row, in buffers as long as the longest limit."""

    def __init__(self, limits: Tensor) -> None:
        self._limits, self._soonest = limits, int(limits.min())
        self.tokens = torch.zeros((len(limits), int(limits.max())), dtype=torch.int64, device=limits.device)
        self._logprobs = torch.zeros(self.tokens.shape, device=limits.device)
        self._lengths = limits.clone()
        self._stopped = torch.zeros(len(limits), dtype=torch.bool, device=limits.device)

    def add(self, step: int, rows: Tensor, tokens: Tensor, logprobs: Tensor, stops: Tensor | None) -> Tensor:
        """Write the ``step``-th token of these rows; ``[rows]`` bool, which have ended with it.

        A row that has ended before keeps its end, whatever is drawn for it until it leaves the batch.
        """
        self.tokens[rows, step], self._logprobs[rows, step] = tokens, logprobs
        ended = torch.zeros_like(rows, dtype=torch.bool)
        if stops is not None:
            ended = torch.isin(tokens, stops) & (self._lengths[rows] > step)
            self._lengths[rows[ended]] = step + 1
            self._stopped[rows[ended]] = True
        return ended if step + 1 < self._soonest else ended | (self._limits[rows] <= step + 1)

    def flat(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Tokens and log-probs of all rows in a line, the rows' lengths, and which met a stop token."""
        kept = torch.arange(self.tokens.shape[1], device=self.tokens.device) < self._lengths[:, None]
        return self.tokens[kept].cpu(), self._logprobs[kept].cpu(), self._lengths.cpu(), self._stopped.cpu()


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
