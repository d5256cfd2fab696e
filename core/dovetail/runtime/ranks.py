"""Who does what of a step: one process all of it, or several a share each (those are the trainer's)."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from torch import Tensor

from dovetail.runtime.packing import MicroBatch, micro_batches
from dovetail.runtime.scoring import Offloader, PendingScores


class Alone:
    """One process. Where there are several, each is given what all of them did, in the order of one."""

    score: Callable[..., Any] = PendingScores  #: ask a reward

    def each(self, work: Callable[[MicroBatch], Any], *arguments: Any, **options: Any) -> list[tuple[Tensor, Any]]:
        """The rows of all micro-batches (see :func:`micro_batches` for the arguments), each with its ``work``."""
        return [(batch.rows, work(batch)) for batch in micro_batches(*arguments, **options)]

    def add(self, parameters: Iterable[Tensor]) -> None:
        """Leave the sum of all gradients on the parameters."""

    def submit(self, offloader: Offloader, start: Callable[[], Any]) -> Any:
        """A future of what one process alone must do; its result is to be agreed on."""
        return offloader.submit(start())

    def agree(self, value: Any) -> Any:
        """The first process's value."""
        return value
