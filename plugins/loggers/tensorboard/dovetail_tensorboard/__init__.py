"""Metrics, a few samples and pictures for TensorBoard."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import attrs
from attrs.validators import ge

from dovetail import hookimpl

if TYPE_CHECKING:
    from dovetail import Rollouts


@attrs.define(eq=False)
class TensorBoard:
    """Writes event files; look at them with ``tensorboard --logdir runs``.

    Args:
        path: Of the event files; relative to the run folder.
        rollouts: Samples shown as text at each step whose rollouts are kept; 0 shows none.
    """

    path: str = "tensorboard"
    rollouts: int = attrs.field(default=2, validator=ge(0))
    _writer: Any = attrs.field(default=None, init=False)
    _step: int = attrs.field(default=0, init=False)

    @hookimpl
    def on_run_start(self, run: Any) -> None:
        """Open the event file; steps that a resumed run does again are purged."""
        from torch.utils.tensorboard import SummaryWriter

        purge = run.step + 1 if run.step else None
        self._writer = SummaryWriter(str(Path(run.directory) / self.path), purge_step=purge)

    @hookimpl
    def log_metrics(self, step: int, metrics: Mapping[str, float]) -> None:
        """A scalar for each metric."""
        self._step = step
        for name, value in metrics.items():
            self._writer.add_scalar(name, value, step)

    @hookimpl
    def log_rollouts(self, step: int, rollouts: Rollouts) -> None:
        """The first samples of the batch as text."""
        for row in range(min(self.rollouts, len(rollouts))):
            prompt = "".join(message.content for message in rollouts.tasks[row].messages)
            self._writer.add_text(f"rollouts/{row}", f"**{prompt}**\n\n{rollouts.texts[row]}", step)

    @hookimpl
    def log_artifact(self, path: Path, name: str) -> None:
        """Pictures; other files are named as text."""
        if path.suffix == ".png":
            self._writer.add_image(name, _pixels(path), self._step, dataformats="HWC")
        else:
            self._writer.add_text(f"artifacts/{name}", str(path), self._step)

    @hookimpl
    def close(self) -> None:
        """Flush and close."""
        if self._writer is not None:
            self._writer.close()
            self._writer = None


def _pixels(path: Path) -> Any:
    import numpy
    from PIL import Image

    return numpy.asarray(Image.open(path).convert("RGB"))
