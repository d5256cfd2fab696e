"""How completions are drawn: parameters that travel with the tokens they produced."""

from __future__ import annotations

from collections.abc import Iterable

import attrs
from attrs.validators import and_, ge, gt, instance_of, le


def _as_tuple(tokens: Iterable[int]) -> tuple[int, ...]:
    return tuple(tokens)


@attrs.frozen
class Sampling:
    """The sampling record of a rollout. The trainer reads the temperature from here, never from its own options.

    Args:
        max_tokens: Most tokens sampled for one completion.
        min_tokens: Fewest tokens before a stop token may be drawn.
        temperature: Divides the logits; 0 means greedy. Usual range 0.6 to 1.2.
        top_k: Keep the k most likely tokens; 0 keeps all.
        top_p: Keep the smallest set of tokens whose probability reaches p; 1 keeps all.
        min_p: Drop tokens less likely than min_p times the likeliest; 0 keeps all.
        stop_tokens: Token ids that end a completion, besides the tokenizer's end token.

    Raises:
        ValueError: A value out of its range, or ``min_tokens`` above ``max_tokens``.
    """

    max_tokens: int = attrs.field(default=256, validator=and_(instance_of(int), ge(1)))
    min_tokens: int = attrs.field(default=0, validator=and_(instance_of(int), ge(0)))
    temperature: float = attrs.field(default=1.0, validator=ge(0))
    top_k: int = attrs.field(default=0, validator=and_(instance_of(int), ge(0)))
    top_p: float = attrs.field(default=1.0, validator=and_(gt(0), le(1)))
    min_p: float = attrs.field(default=0.0, validator=and_(ge(0), le(1)))
    stop_tokens: tuple[int, ...] = attrs.field(default=(), converter=_as_tuple)

    def __attrs_post_init__(self) -> None:
        if self.min_tokens > self.max_tokens:
            raise ValueError(f"'min_tokens' must be <= 'max_tokens' ({self.max_tokens}): {self.min_tokens}")

    @property
    def greedy(self) -> bool:
        return self.temperature == 0

    @property
    def truncates(self) -> bool:
        """True if some tokens can get probability 0, so that ratios between two policies may be undefined."""
        return not self.greedy and (self.top_k > 0 or self.top_p < 1 or self.min_p > 0)

    @property
    def scoring_temperature(self) -> float:
        """The temperature under which log-probs are taken: the sampler's, or 1 for greedy tokens."""
        return 1.0 if self.greedy else self.temperature
