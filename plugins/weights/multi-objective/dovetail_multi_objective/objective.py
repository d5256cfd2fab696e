"""How one of several rewards counts in the total."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Literal

import attrs
from attrs.validators import and_, ge, gt, in_, le, optional

from dovetail import hookimpl
from dovetail_multi_objective.running import Running

if TYPE_CHECKING:
    from torch import Tensor


@attrs.define(eq=False)
class Objective:
    """``weight(step) * clip((score - mean) / (std + eps))``: what a reward adds to the total.

    The schedule is ``value + (to - value) * t`` with ``t = min(1, step / over)``, and for ``cosine`` with
    ``(1 - cos(pi t)) / 2`` in its place (the half wave of Loshchilov and Hutter 2017, arXiv 1608.03983, equation 5);
    ``step`` counts from 0. Scores without spread become 0. An estimator that compares within groups takes the mean out
    anyway; what normalising changes there is the scale.

    Args:
        value: The weight, or what it is at the first step.
        to: What it becomes; null leaves it.
        over: Steps until it is there; it stays from then on. Usual: a tenth of the run to all of it.
        schedule: ``linear``, or ``cosine``: slow at both ends.
        normalize: ``z-score`` takes mean and sample standard deviation of the batch; ``running`` those of all batches
            so far, this one included; ``none`` leaves the scores.
        decay: Of ``running``: what a batch counts less with each later one; 1 forgets nothing. Usual: 0.9 to 1.
        clip: Bounds ``[low, high]`` of the scores, applied last. Usual for normalised ones: -3 and 3.
        eps: Added to the standard deviation.
    """

    value: float = 1.0
    to: float | None = None
    over: int | None = attrs.field(default=None, validator=optional(gt(0)))
    schedule: Literal["linear", "cosine"] = attrs.field(default="linear", validator=in_(["linear", "cosine"]))
    normalize: Literal["none", "z-score", "running"] = attrs.field(
        default="none", validator=in_(["none", "z-score", "running"])
    )
    decay: float = attrs.field(default=1.0, validator=and_(gt(0), le(1)))
    clip: tuple[float, ...] | None = None
    eps: float = attrs.field(default=1e-6, validator=ge(0))
    _running: Running = attrs.field(factory=Running, init=False)

    def __attrs_post_init__(self) -> None:
        if (self.to is None) != (self.over is None):
            raise ValueError("to and over belong together: the weight goes from value to `to` over `over` steps")
        if self.decay != 1 and self.normalize != "running":
            raise ValueError("decay belongs to normalize='running'")
        if self.clip is not None and (len(self.clip) != 2 or not self.clip[0] < self.clip[1]):
            raise ValueError(f"clip is [low, high] with low below high, got {list(self.clip)}")
        if not all(math.isfinite(number) for number in (self.value, self.to or 0.0)):
            raise ValueError("value and to must be finite")

    @hookimpl
    def weigh(self, scores: Tensor, step: int) -> tuple[Tensor, float]:
        """``[b]`` scores as they count, and the weight of this step."""
        counted = self._normalized(scores)
        return (counted if self.clip is None else counted.clamp(*self.clip)), self.weight_at(step)

    def weight_at(self, step: int) -> float:
        """The weight after ``step`` steps."""
        if self.to is None or self.over is None:
            return self.value
        part = min(1.0, step / self.over)
        if self.schedule == "cosine":
            part = (1 - math.cos(math.pi * part)) / 2
        return self.value + (self.to - self.value) * part

    def _normalized(self, scores: Tensor) -> Tensor:
        if self.normalize == "none" or not len(scores):
            return scores
        if self.normalize == "running":
            self._running.add(scores, self.decay)
            mean, std = self._running.mean, self._running.std
        else:
            exact = scores.double()
            mean, std = exact.mean().item(), exact.std().item() if len(exact) > 1 else 0.0
        # Rounding leaves a spread in scores that are all the same; it is none.
        flat = std <= 1e-6 * abs(mean)
        return scores * 0 if flat else ((scores.double() - mean) / (std + self.eps)).to(scores.dtype)

    def state_dict(self) -> dict[str, Any]:
        return attrs.asdict(self._running)

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self._running = Running(**state)
