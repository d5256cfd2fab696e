"""Calling rewards: deadlines, failures row by row, and the check of what comes back."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import Future
from concurrent.futures import TimeoutError as FutureTimeout
from typing import Any

import torch
from torch import Tensor

from dovetail.errors import DovetailError, PartError
from dovetail.parts import Part, line_of
from dovetail.rollouts import Invalid, RewardStatus, Rollouts, Scores
from dovetail.runtime.offload import Offloader

_WHOLE_BATCH = {"groups", "rollouts"}


class PendingScores:
    """A reward that is being computed beside the training thread."""

    def __init__(self, part: Part, rollouts: Rollouts, offloader: Offloader, timeout: float) -> None:
        self._part = part
        self._rows = len(rollouts)
        self._timeout = timeout
        self._started = time.monotonic()
        self._future: Future[Any] = _start(part, rollouts, offloader)

    def result(self) -> Scores:
        """Wait, at most until the deadline. Rows without an answer are TIMEOUT.

        Raises:
            PartError: The part broke its contract for the whole batch.
        """
        remaining = max(0.0, self._started + self._timeout - time.monotonic())
        try:
            return self._future.result(remaining)  # type: ignore[no-any-return]
        except FutureTimeout:
            self._future.cancel()
            reason = f"no answer within {self._timeout:g} s"
            return Scores.failed(self._rows, reason, RewardStatus.TIMEOUT)


def _start(part: Part, rollouts: Rollouts, offloader: Offloader) -> Future[Any]:
    if part.is_async("score"):
        return offloader.submit_async(_score_async(part, rollouts))
    return offloader.submit(lambda: _score(part, rollouts))


def facts_of(rollouts: Rollouts, names: Sequence[str]) -> dict[str, Any]:
    """What a part may read off the rollouts; only what it asks for is decoded."""
    return {name: rollouts if name == "rollouts" else getattr(rollouts, name) for name in names}


def _call(part: Part, rollouts: Rollouts) -> Any:
    return part.instance.score(**facts_of(rollouts, part.asks_for("score")))


def _score(part: Part, rollouts: Rollouts) -> Scores:
    try:
        result = _call(part, rollouts)
    except DovetailError:
        raise
    except Exception as error:
        if not _row_by_row(part, rollouts):
            return Scores.failed(len(rollouts), _reason(error))
        return _stack([_score(part, rollouts.select([row])) for row in range(len(rollouts))])
    return check_scores(part, result, len(rollouts))


async def _score_async(part: Part, rollouts: Rollouts) -> Scores:
    try:
        result = await _call(part, rollouts)
    except DovetailError:
        raise
    except Exception as error:
        if not _row_by_row(part, rollouts):
            return Scores.failed(len(rollouts), _reason(error))
        return _stack([await _score_async(part, rollouts.select([row])) for row in range(len(rollouts))])
    return check_scores(part, result, len(rollouts))


def _row_by_row(part: Part, rollouts: Rollouts) -> bool:
    """One bad row must not cost the others their score, unless the part needs to see them together."""
    return len(rollouts) > 1 and not _WHOLE_BATCH & set(part.asks_for("score"))


def _reason(error: Exception) -> str:
    place = line_of(error)
    return f"{type(error).__name__}: {error}" + (f" at {place}" if place else "")


def _stack(pieces: list[Scores]) -> Scores:
    reasons = {row: piece.reasons[0] for row, piece in enumerate(pieces) if piece.reasons}
    return Scores(torch.cat([p.values for p in pieces]), torch.cat([p.status for p in pieces]), reasons)


def check_scores(part: Part, result: Any, rows: int) -> Scores:
    """Read what a reward returned.

    Raises:
        PartError: Not a number for each sequence.
    """
    if isinstance(result, Scores):
        result = result.values
    if isinstance(result, str | bytes | Mapping) or not (isinstance(result, Tensor) or hasattr(result, "__len__")):
        raise _broken(part, f"returned {type(result).__name__} {_short(result)}", rows)
    if isinstance(result, Tensor) and result.ndim != 1:
        raise _broken(part, f"returned a tensor of shape {list(result.shape)}", rows)
    if len(result) != rows:
        raise _broken(part, f"returned {len(result)} values for {rows} sequences", rows)
    values, status, reasons = torch.empty(rows), torch.zeros(rows, dtype=torch.uint8), {}
    for row, value in enumerate(result.tolist() if isinstance(result, Tensor) else result):
        values[row], reason = _read(part, value, row, rows)
        if reason:
            status[row], reasons[row] = int(RewardStatus.INVALID), reason
    return Scores(values, status, reasons)


def _read(part: Part, value: Any, row: int, rows: int) -> tuple[float, str]:
    if isinstance(value, Invalid):
        return math.nan, value.reason
    if value is None:
        return math.nan, "returned None"
    try:
        if isinstance(value, str | bytes):
            raise TypeError
        number = float(value)
    except (TypeError, ValueError):
        raise _broken(part, f"returned {type(value).__name__} {_short(value)} for sequence {row}", rows) from None
    return (number, "") if math.isfinite(number) else (math.nan, f"returned {number}")


def _broken(part: Part, problem: str, rows: int) -> PartError:
    return part.error(
        problem, hint=f"return {rows} finite numbers, or dovetail.Invalid(reason) for one that cannot be given"
    )


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "…"
