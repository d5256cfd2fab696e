"""How good a policy is, and how sure that is."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence

import attrs

_Z = statistics.NormalDist().inv_cdf(0.975)


@attrs.frozen
class Estimate:
    """A mean over tasks with its 95 % confidence interval."""

    mean: float
    low: float
    high: float
    tasks: int

    def __str__(self) -> str:
        return f"{self.mean:.3f} [{self.low:.3f}, {self.high:.3f}]"


def pass_at_k(samples: int, successes: int, k: int) -> float:
    """Probability that one of ``k`` samples succeeds, without bias, from ``samples`` of which ``successes`` did.

    ``1 - C(n - c, k) / C(n, k)``: Chen et al. 2021, *Evaluating Large Language Models Trained on Code* (arXiv
    2107.03374), equation 1. A ValueError if there are fewer samples than ``k``.
    """
    if samples < k:
        raise ValueError(f"pass@{k} needs {k} samples, got {samples}")
    return 1.0 - math.comb(samples - successes, k) / math.comb(samples, k)


def share(values: Sequence[float]) -> Estimate:
    """The mean of values in [0, 1], one for each task, with Wilson's interval.

    Tasks are the unit, because the samples of one task are not independent (Miller 2024, arXiv 2411.00640, section
    2.2). Wilson's interval keeps its width where all tasks succeed or fail, where a standard error is 0; values
    between 0 and 1 vary less than a coin does, and count as the larger number of coins that varies as little.
    """
    count = len(values)
    if not count:
        return Estimate(math.nan, math.nan, math.nan, 0)
    mean = statistics.fmean(values)
    variance = statistics.variance(values, mean) if count > 1 else 0.0
    coins = count * max(1.0, mean * (1 - mean) / variance) if variance else count
    centre, spread = mean + _Z**2 / (2 * coins), _Z * math.sqrt((mean * (1 - mean) + _Z**2 / (4 * coins)) / coins)
    scale = 1 + _Z**2 / coins
    return Estimate(mean, max(0.0, (centre - spread) / scale), min(1.0, (centre + spread) / scale), count)


def difference(values: Sequence[float], baseline: Sequence[float]) -> Estimate:
    """The mean of paired differences by task, with the interval of their standard error (Miller 2024, section 4)."""
    pairs = [value - other for value, other in zip(values, baseline, strict=True)]
    if not pairs:
        return Estimate(math.nan, math.nan, math.nan, 0)
    mean = statistics.fmean(pairs)
    error = statistics.stdev(pairs, mean) / math.sqrt(len(pairs)) if len(pairs) > 1 else math.inf
    return Estimate(mean, mean - _Z * error, mean + _Z * error, len(pairs))
