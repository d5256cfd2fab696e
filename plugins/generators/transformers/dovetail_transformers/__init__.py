"""The reference generator: a thin wrapper over transformers' own generate."""

from __future__ import annotations

from typing import Any

import attrs

from dovetail import hookimpl


@attrs.frozen
class Transformers:
    """Samples by ``model.generate``. Slower than ``native``; use it to check a model or a sampling setting.

    Its rows are drawn from one generator, seeded by all rows' seeds: the same batch gives the same tokens, but a row's
    tokens depend on the rows beside it.
    """

    @hookimpl
    def generate(self, model: Any, tokenizer: Any, prompts: Any, samples: int, sampling: Any, seeds: Any) -> Any:
        """Sample ``samples`` completions for each prompt; see :class:`dovetail.hookspecs.GeneratorSpecs`."""
        from dovetail_transformers.sampling import generate

        return generate(model, tokenizer, prompts, samples, sampling, seeds)
