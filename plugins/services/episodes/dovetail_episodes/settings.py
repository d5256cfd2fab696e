"""How episodes are played: the words under ``episodes`` in a configuration."""

from __future__ import annotations

from typing import Literal

from attrs import field, frozen
from attrs.validators import ge, gt, in_, optional

from dovetail.sampling import positive


@frozen
class EpisodeSettings:
    """How episodes of several turns are played, whatever their environment.

    Args:
        max_turns: Turns after which an episode is cut off, if its environment has not ended it before.
        max_tokens: Tokens that the policy may sample in a whole episode; null sets no limit but the model's context.
            One turn is limited by the sampling's ``max_tokens``.
        in_flight: Episodes played at a time. More of them fill the batches while tools are slow, and hold as many
            instances of the environment.
        patience: Seconds for which a batch waits for further episodes once one is ready. 0 takes what is there, null
            waits for all: slower where tools are slow, but then a run's numbers do not depend on their speed.
        step_timeout: Seconds that the environment may take for one turn; null takes the run's ``reward_timeout``.
        deadline: Seconds for a whole episode, the policy's turns included; null sets none.
        rewrites: What to do when the chat template changes what was said before, as those do that drop earlier
            reasoning: ``stop`` with an error, or ``keep`` the tokens as they were sampled.
    """

    max_turns: int = field(default=32, validator=positive)
    max_tokens: int | None = field(default=None, validator=optional(positive))
    in_flight: int = field(default=512, validator=positive)
    patience: float | None = field(default=0.05, validator=optional(ge(0)))  # type: ignore[arg-type]
    step_timeout: float | None = field(default=None, validator=optional(gt(0)))
    deadline: float | None = field(default=None, validator=optional(gt(0)))
    rewrites: Literal["stop", "keep"] = field(default="stop", validator=in_(["stop", "keep"]))
