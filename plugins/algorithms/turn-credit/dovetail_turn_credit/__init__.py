"""Credit for each turn of an episode, by comparison with the same turn of the group's other episodes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import attrs
from attrs.validators import and_, ge, in_, le

from dovetail import hookimpl

if TYPE_CHECKING:
    from torch import Tensor

    from dovetail import Ragged


@attrs.frozen
class TurnAdvantages:
    """``A_ik = (G_ik - mean_j G_jk) / (std_j G_jk + eps)``, one number for each turn ``k`` of episode ``i``.

    ``G_ik = sum_(l >= k) gamma^(l - k) r_il`` is what the episode brings from turn ``k`` on; it is compared with the
    same turn of the group's episodes that have one. So a turn is not praised for what was earned before it. The
    environment's turn rewards count where they were given, all else that the total holds in the last turn. Turn-level
    credit within groups: Zeng et al. 2025 (arXiv 2505.11821), who add an outcome's advantage to that of a turn's own
    reward; the reward to go in their place is REINFORCE's (Sutton and Barto 2018, section 13.3). In a single turn it is
    the group estimator. A group that has a turn once, or without spread, gives it 0.

    Args:
        gamma: Discount for each turn. Usual range 0.9 to 1.
        scale: What the difference is divided by: the spread in the ``group``, or ``none``.
        eps: Added to the standard deviation.
    """

    gamma: float = attrs.field(default=1.0, validator=and_(ge(0), le(1)))
    scale: Literal["group", "none"] = attrs.field(default="group", validator=in_(["group", "none"]))
    eps: float = attrs.field(default=1e-4, validator=ge(0))

    @property
    def traits(self) -> tuple[str, ...]:
        return () if self.scale == "none" else ("normalises",)

    @hookimpl
    def estimate(
        self, rewards: Tensor, groups: Tensor, sampled: Ragged, steps: Ragged | None, step_rewards: Ragged | None
    ) -> Ragged | Tensor:
        """Advantages over the sampled tokens, from ``[B]`` totals and the turns' own rewards."""
        from dovetail_turn_credit.turns import compare, per_token, returns_to_go, single_turns

        starts = single_turns(sampled) if steps is None else steps
        own = starts.with_values(rewards.new_zeros(len(starts.values))) if step_rewards is None else step_rewards
        returns = returns_to_go(own.to(rewards.dtype), rewards, self.gamma)
        compared = compare(returns, groups, self.eps if self.scale == "group" else None)
        return per_token(compared, starts, sampled)
