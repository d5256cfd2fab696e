"""What the logger promises, read back with TensorBoard's own reader."""

import pytest

from dovetail.testing import part_checks, tiny_rollouts
from dovetail.training.run import Run
from dovetail_tensorboard import TensorBoard

accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")


@pytest.mark.parametrize("check", part_checks("loggers", "tensorboard"), ids=str)
def test_conformance(check):
    """It keeps what every logger promises."""
    check()


def test_metrics_samples_and_pictures_can_be_read(tmp_path):
    """Scalars, text and an image; a resumed run purges what it does again."""
    from PIL import Image

    Image.new("RGB", (4, 4)).save(tmp_path / "curve.png")
    run = Run(tmp_path, "x")
    first = TensorBoard()
    first.on_run_start(run)
    for step in (1, 2, 3):
        first.log_metrics(step, {"loss": float(step)})
    first.close()
    run.step = 2
    second = TensorBoard()
    second.on_run_start(run)
    second.log_metrics(3, {"loss": 30.0})
    second.log_rollouts(3, tiny_rollouts())
    second.log_artifact(tmp_path / "curve.png", "curve")
    second.log_artifact(tmp_path, "final")
    second.close()
    events = accumulator.EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    assert [(event.step, event.value) for event in events.Scalars("loss")] == [(1, 1.0), (2, 2.0), (3, 30.0)]
    assert "curve" in events.Tags()["images"]
    assert any(tag.startswith("rollouts/0") for tag in events.Tags()["tensors"])
