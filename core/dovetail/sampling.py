"""How completions are drawn: parameters that travel with the tokens they produced."""

from __future__ import annotations

from attrs import field, frozen
from attrs.validators import and_, ge, gt, instance_of, le

positive = and_(instance_of(int), ge(1))
count = and_(instance_of(int), ge(0))
share = and_(ge(0.0), le(1.0))


@frozen
class Sampling:
    """The sampling record of a rollout. The trainer reads the temperature from here, never from its own options."""

    max_tokens: int = field(default=256, validator=positive)  #: most tokens sampled for one completion
    min_tokens: int = field(default=0, validator=count)  #: fewest tokens before a stop token may be drawn
    temperature: float = field(default=1.0, validator=ge(0))  #: divides the logits; 0 is greedy, usual range 0.6 to 1.2
    top_k: int = field(default=0, validator=count)  #: keep the k most likely tokens; 0 keeps all
    #: keep the smallest set of tokens whose probability reaches p; 1 keeps all
    top_p: float = field(default=1.0, validator=and_(gt(0), le(1)))
    min_p: float = field(default=0.0, validator=share)  #: drop tokens less likely than this times the likeliest
    stop_tokens: tuple[int, ...] = field(default=(), converter=tuple[int, ...])  #: besides the tokenizer's end token

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
