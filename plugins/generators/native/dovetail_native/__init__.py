"""The native generator: each prompt is read once, finished rows leave, a row's tokens follow from its own seed."""

from __future__ import annotations

from typing import Any

import attrs

from dovetail import hookimpl


@attrs.frozen
class Native:
    """Samples through the model's own forward, for any decoder-only transformers model.

    Each distinct prompt is prefilled once and its cache shared by its samples. Rows that have ended leave the batch.
    A row draws from its own seed and position alone, so its tokens do not depend on which rows are beside it.

    Args:
        compact_at: Share of ended rows at which they leave the batch. Usual range 0.05 to 0.5.
        batch_rows: Most rows decoded at a time; 0 decodes all at once. Lower it when the cache does not fit: as rows
            end, waiting prompts take their places.
        blocks: Decode Llama, Mistral, Qwen2 and Qwen3 by dovetail's own block, in fewer operations and with shared
            prompts, if it gives the model's logits. False goes through the model's own forward, as for all others.
    """

    compact_at: float = attrs.field(default=0.125, validator=[attrs.validators.gt(0), attrs.validators.le(1)])
    batch_rows: int = attrs.field(default=0, validator=attrs.validators.ge(0))
    blocks: bool = True

    @hookimpl
    def generate(self, model: Any, tokenizer: Any, prompts: Any, samples: int, sampling: Any, seeds: Any) -> Any:
        """Sample ``samples`` completions for each prompt; see :class:`dovetail.hookspecs.GeneratorSpecs`."""
        from dovetail_native.engine import Engine

        engine = Engine(model, sampling, compact_at=self.compact_at, blocks=self.blocks)
        return engine.generate(prompts, samples, seeds, batch_rows=self.batch_rows)
