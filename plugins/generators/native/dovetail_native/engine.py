"""The loop: prefill each prompt once, decode the samples of many together, give ended rows' places to waiting prompts."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from dovetail import Generated, Ragged, Sampling
from dovetail_native.blocks import BlockDecoder, decodes
from dovetail_native.cache import ModelDecoder, prefill
from dovetail_native.rng import uniform
from dovetail_native.sampler import choose
from dovetail_native.threads import fitting

_AHEAD = 32  # random numbers drawn at a time
_REFILL = 0.25  # of the places for prompts; reading a few prompts costs as much as a step of all rows


class Engine:
    """Samples from one model under one sampling record.

    Args:
        model: A decoder-only transformers model, or a peft model around one.
        sampling: How to draw.
        compact_at: Share of ended rows at which they leave the batch.
        blocks: Decode Llama's block by few operations where the model is made of it.
    """

    def __init__(self, model: Any, sampling: Sampling, *, compact_at: float, blocks: bool = True) -> None:
        self.model, self.sampling = model, sampling
        self.compact_at = compact_at
        self.decoder = BlockDecoder if blocks and decodes(model) else ModelDecoder
        self.device = next(model.parameters()).device
        self.stops = torch.tensor(sampling.stop_tokens, dtype=torch.int64, device=self.device)
        config = model.config.get_text_config()
        self._context, self._width = getattr(config, "max_position_embeddings", None), config.hidden_size

    @torch.inference_mode()
    def generate(self, prompts: Ragged, samples: int, seeds: Tensor, *, batch_rows: int = 0) -> Generated:
        """Completions of all prompts, ``samples`` each, side by side; at most ``batch_rows`` at a time, 0 for all.

        The samples of a prompt begin together, so ``batch_rows`` under ``samples`` means one prompt at a time.
        """
        prompts, seeds = prompts.to(self.device), seeds.to(self.device)
        limits = torch.full((len(prompts),), self.sampling.max_tokens, device=self.device)
        if self._context is not None:
            limits = torch.minimum(limits, self._context - prompts.lengths)
        limits = limits.repeat_interleave(samples)
        drawn = _Drawn(limits, self.stops)
        together = max(1, batch_rows // samples) if batch_rows else len(prompts)
        most = int(limits.max())
        waiting = _Waiting(prompts, samples, seeds)
        batch = _Batch(self, most)
        while waiting or len(batch.rows):
            places = together - -(-len(batch.rows) // samples)
            if waiting and places >= _REFILL * together:
                batch.admit(*waiting.take(places))
            with fitting(self.device, len(batch.rows) * self._width**2):
                batch.alive &= ~drawn.add(batch.rows, batch.steps, *batch.draw())
                batch.compact()
                if len(batch.rows):
                    batch.advance(drawn.last(batch.rows, batch.steps))
        return drawn.result()


class _Waiting:
    """Prompts that nobody has read, in their order."""

    def __init__(self, prompts: Ragged, samples: int, seeds: Tensor) -> None:
        self._prompts, self._samples, self._seeds = prompts, samples, seeds
        self._taken = 0

    def __bool__(self) -> bool:
        return self._taken < len(self._prompts)

    def take(self, count: int) -> tuple[Ragged, Tensor, Tensor]:
        """The next prompts, the numbers of their rows, and those rows' seeds."""
        end = min(self._taken + count, len(self._prompts))
        prompts = self._prompts.select(range(self._taken, end))
        rows = torch.arange(self._taken * self._samples, end * self._samples, device=self._seeds.device)
        self._taken = end
        return prompts, rows, self._seeds[rows]


class _Drawn:
    """What has been drawn for each row, in buffers as long as the longest limit."""

    def __init__(self, limits: Tensor, stops: Tensor) -> None:
        self._stops = stops
        # One place more than any row may fill, for what is drawn for rows that have ended.
        self._tokens = torch.zeros((len(limits), int(limits.max()) + 1), dtype=torch.int64, device=limits.device)
        self._logprobs = torch.zeros(self._tokens.shape, device=limits.device)
        self._lengths = limits.clone()
        self._stopped = torch.zeros(len(limits), dtype=torch.bool, device=limits.device)

    def add(self, rows: Tensor, steps: Tensor, tokens: Tensor, logprobs: Tensor) -> Tensor:
        """Write the ``steps``-th tokens of these rows; ``[rows]`` bool, which have ended, now or before.

        A row that has ended keeps its end, whatever is drawn for it until it leaves the batch.
        """
        steps = steps.clamp(max=self._tokens.shape[1] - 1)
        self._tokens[rows, steps], self._logprobs[rows, steps] = tokens, logprobs
        if len(self._stops):
            ended = torch.isin(tokens, self._stops) & (self._lengths[rows] > steps)
            self._lengths[rows[ended]] = steps[ended] + 1
            self._stopped[rows[ended]] = True
        return self._lengths[rows] <= steps + 1

    def last(self, rows: Tensor, steps: Tensor) -> Tensor:
        """The ``steps``-th token of each."""
        return self._tokens[rows, steps.clamp(max=self._tokens.shape[1] - 1)]

    def result(self) -> Generated:
        """All rows, in their order."""
        kept = torch.arange(self._tokens.shape[1], device=self._tokens.device) < self._lengths[:, None]
        lengths = self._lengths.cpu()
        tokens, logprobs = (Ragged.from_lengths(flat[kept].cpu(), lengths) for flat in (self._tokens, self._logprobs))
        return Generated(tokens, logprobs, tuple("stop" if stop else "length" for stop in self._stopped.tolist()))


class _Batch:
    """The rows that are being decoded, and their next logits.

    Attributes:
        rows: ``[R]`` int64, their numbers in the order of the result.
        steps: ``[R]`` int64, which of its tokens each draws next.
        alive: ``[R]`` bool; rows that have ended stay until enough have.
    """

    def __init__(self, engine: Engine, most: int) -> None:
        self._engine, self._sampling, self._most = engine, engine.sampling, most
        self._decoder: BlockDecoder | ModelDecoder | None = None
        self._logits = torch.empty((0, 0), device=engine.device)
        self._numbers = torch.empty((0, 0), device=engine.device)
        self.rows = self._seeds = self.steps = torch.empty(0, dtype=torch.int64, device=engine.device)
        self.alive = torch.empty(0, dtype=torch.bool, device=engine.device)
        self._since = 0  # draws since rows came; the youngest have made as many

    def admit(self, prompts: Ragged, rows: Tensor, seeds: Tensor) -> None:
        """Let rows in, beside those that are under way."""
        which = torch.arange(len(prompts), device=rows.device).repeat_interleave(len(rows) // len(prompts))
        prefilled = prefill(self._engine.model, prompts)
        if self._decoder is None or not len(self.rows):
            self._decoder = self._engine.decoder(self._engine.model, prefilled, which, self._most)
            self._logits = prefilled.logits[which]
        else:
            self._decoder.admit(prefilled, which, self._most)
            self._logits = torch.cat([self._logits, prefilled.logits[which]])
        self.rows, self._seeds = torch.cat([self.rows, rows]), torch.cat([self._seeds, seeds])
        self.steps = torch.cat([self.steps, torch.zeros_like(rows)])
        self.alive = torch.cat([self.alive, torch.ones_like(rows, dtype=torch.bool)])
        self._numbers = torch.empty((len(self.rows), 0), device=self.rows.device)
        self._since = 0

    def draw(self) -> tuple[Tensor, Tensor]:
        """A token and its log-prob for each row."""
        young = self._since < self._sampling.min_tokens and len(self._engine.stops) > 0
        banned = (self._engine.stops, self.steps[:, None] < self._sampling.min_tokens) if young else None
        if self._sampling.greedy:
            return choose(self._logits, self._sampling, None, banned)
        if self._since % _AHEAD == 0:
            ahead = torch.arange(_AHEAD, device=self.steps.device)
            self._numbers = uniform(self._seeds[:, None], self.steps[:, None] + ahead)
        return choose(self._logits, self._sampling, self._numbers[:, self._since % _AHEAD], banned)

    def advance(self, tokens: Tensor) -> None:
        """Feed the drawn tokens."""
        assert self._decoder is not None
        self._logits = self._decoder.advance(tokens)
        self.steps = self.steps + 1
        self._since += 1

    def compact(self) -> None:
        """Let the rows go that have ended, if they are many enough; the last ones move to their places."""
        count = int(self.alive.sum())
        if count > len(self.alive) * (1 - self._engine.compact_at):
            return
        keep = torch.arange(count, device=self.alive.device)
        holes = (~self.alive[:count]).nonzero().squeeze(1)
        keep[holes] = self.alive[count:].nonzero().squeeze(1) + count
        if count and self._decoder is not None:
            self._decoder.keep(keep, holes)
        self.rows, self.steps, self._seeds = self.rows[keep], self.steps[keep], self._seeds[keep]
        self.alive, self._numbers = self.alive[keep], self._numbers[keep]
