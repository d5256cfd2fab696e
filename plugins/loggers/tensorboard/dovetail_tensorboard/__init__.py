"""Metrics, a few samples and pictures for TensorBoard."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import attrs
from attrs.validators import ge

from dovetail import UserError, hookimpl

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
        """Open the event file; steps that a resumed run does again are purged.

        Raises:
            UserError: It cannot be written.
        """
        from torch.utils.tensorboard import SummaryWriter

        folder = Path(run.directory) / self.path
        self._step = run.step
        # A run that starts over also repeats the evaluation before its first step.
        purge = run.step + 1 if run.step else 0
        try:
            self._writer = SummaryWriter(str(folder), purge_step=purge)
        except OSError as error:
            raise UserError(f"{folder} cannot be written: {error.strerror}", hint="choose another path") from error

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
            prompt = "\n".join(message.content for message in rollouts.tasks[row].messages)
            text = f"**prompt**\n\n{_verbatim(prompt)}\n\n**completion**\n\n{_verbatim(rollouts.texts[row])}"
            self._writer.add_text(f"rollouts/{row}", text, step)

    @hookimpl
    def log_artifact(self, path: Path, name: str) -> None:
        """Pictures; other files are named as text."""
        if path.suffix.lower() == ".png":
            self._writer.add_image(name, _pixels(path), self._step, dataformats="HWC")
        else:
            self._writer.add_text(f"artifacts/{name}", str(path), self._step)

    @hookimpl
    def close(self) -> None:
        """Flush and close."""
        if self._writer is not None:
            self._writer.close()
            self._writer = None


def _verbatim(text: str) -> str:
    """A Markdown code block by indentation, because no text can close it; tags and line ends stay visible."""
    return textwrap.indent(text, "    ", lambda line: True)


def _pixels(path: Path) -> Any:
    import numpy
    from PIL import Image

    return numpy.asarray(Image.open(path).convert("RGB"))
