"""Options of a recipe that follow a metric."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import attrs
import structlog
from attrs.validators import and_, gt, le

from dovetail import UserError, hookimpl

log = structlog.get_logger()
_positive = gt(0)
_share = and_(gt(0), le(1))


@attrs.define(eq=False, kw_only=True)
class Adaptive:
    """``value ← clamp(value · (1 ± gain · e), low, high)``, ``e = clamp(metric / target - 1, -0.2, 0.2)``, each step.

    The proportional controller of Ziegler et al. 2019 (arXiv 1909.08593), section 2.2, for any option of any node. The
    sign is that which leads back to the target.

    Args:
        node: In the recipe, such as ``advantages``.
        option: Of that node, such as ``kl_coef``. It must be above 0 at the start.
        metric: What is held, such as ``gae/kl``. Steps that do not report it change nothing.
        target: Where it is held, above 0.
        gain: How fast. Usual range 0.01 to 0.5.
        low: Least value of the option.
        high: Largest value of the option.
        rises: Whether the metric rises with the option. A price makes it fall, a clip or a temperature rise.
    """

    node: str
    option: str
    metric: str
    target: float = attrs.field(validator=_positive)
    gain: float = attrs.field(default=0.1, validator=_share)
    low: float = attrs.field(default=1e-6, validator=_positive)
    high: float = attrs.field(default=1e6, validator=_positive)
    rises: bool = False
    _value: float | None = attrs.field(default=None, init=False)
    _found: bool = attrs.field(default=False, init=False)

    def __attrs_post_init__(self) -> None:
        if self.low > self.high:
            raise ValueError(f"low must not be above high = {self.high:g}, got {self.low:g}")

    @hookimpl
    def on_run_start(self, run: Any) -> None:
        """Take the option as the recipe has it, or go on where a checkpoint was; a UserError if it is no number above 0."""
        if self._value is None:
            value = run.option(self.node, self.option)
            if not isinstance(value, int | float) or not value > 0:
                what = f"{self.node}.{self.option} is {value!r}, and only a number above 0 can be moved by factors"
                raise UserError(what, hint="set it in the recipe")
            self._value = float(value)
        else:
            run.adjust(self.node, **{self.option: self._value})

    @hookimpl
    def on_step_end(self, run: Any, step: int, metrics: Mapping[str, float]) -> None:
        """Move the option against the error of this step."""
        measured = metrics.get(self.metric, math.nan)
        if math.isnan(measured) or self._value is None:
            return
        self._found = True
        error = min(max(measured / self.target - 1, -0.2), 0.2)
        factor = 1 + self.gain * (-error if self.rises else error)
        self._value = min(max(self._value * factor, self.low), self.high)
        run.adjust(self.node, **{self.option: self._value})

    @hookimpl
    def on_run_end(self, run: Any, outcome: str) -> None:
        """Say so if the metric never came."""
        if not self._found and outcome == "done":
            log.warning(
                "an adaptive option never saw its metric", option=f"{self.node}.{self.option}", metric=self.metric
            )

    def state_dict(self) -> dict[str, Any]:
        return {"value": self._value, "found": self._found}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self._value, self._found = state["value"], state["found"]


@attrs.define(eq=False, kw_only=True)
class AdaptiveKL(Adaptive):
    """Holds the KL to the reference by its price: ``kl_coef`` of the estimator ``gae``.

    Ziegler et al. 2019 (arXiv 1909.08593), section 2.2; ``gain`` is their K_β.

    Args:
        node: The node with the price.
        option: Its option; ``beta`` of a loss that has the penalty.
        metric: The KL, in nats a sequence for ``gae/kl``, a token for ``clipped/kl``.
        target: Nats. Usual range 1 to 20 for a sequence.
        gain: How fast. Usual value 0.1.
        low: Least price.
        high: Largest price.
        rises: A price makes the KL fall.
    """

    node: str = "advantages"
    option: str = "kl_coef"
    metric: str = "gae/kl"
    target: float = attrs.field(default=6.0, validator=_positive)
    low: float = attrs.field(default=1e-4, validator=_positive)
    high: float = attrs.field(default=10.0, validator=_positive)


@attrs.define(eq=False, kw_only=True)
class AdaptiveClip(Adaptive):
    """Holds the size of the policy's steps by the clip: more KL to the policy that sampled narrows it, less widens it.

    The rule that Schulman et al. 2017 (arXiv 1707.06347, section 4) give for a penalty, on the clip instead. Needs
    several optimizer steps a batch: in the first one the KL is 0.

    Args:
        node: The loss.
        option: Its clip.
        metric: Mean KL a token between the live policy and the one that sampled.
        target: Nats a token. Usual range 0.001 to 0.05.
        gain: How fast. Usual value 0.1.
        low: Narrowest clip.
        high: Widest clip.
        rises: A wider clip lets the KL rise.
    """

    node: str = "loss"
    option: str = "clip"
    metric: str = "kl_to_sampler"
    target: float = attrs.field(default=0.01, validator=_positive)
    low: float = attrs.field(default=0.05, validator=_positive)
    high: float = attrs.field(default=0.5, validator=_positive)
    rises: bool = True


@attrs.define(eq=False, kw_only=True)
class AdaptiveTemperature(Adaptive):
    """Holds the entropy of what is sampled by the temperature, so that a policy that grows sure goes on exploring.

    The trainer scores under the same temperature, which travels with the tokens: ratios stay exact.

    Args:
        node: The node that samples.
        option: Its temperature; that of the run's ``sampling`` at the start.
        metric: Mean of minus the log-prob of sampled tokens.
        target: Nats a token. Take the value of the first steps, or a little less: usual range 0.1 to 0.6.
        gain: How fast. Usual range 0.02 to 0.2.
        low: Coldest.
        high: Hottest; text falls apart above 1.5 or so.
        rises: A higher temperature lets the entropy rise.
    """

    target: float = attrs.field(validator=_positive)
    node: str = "completions"
    option: str = "temperature"
    metric: str = "entropy"
    low: float = attrs.field(default=0.6, validator=_positive)
    high: float = attrs.field(default=1.5, validator=_positive)
    rises: bool = True
