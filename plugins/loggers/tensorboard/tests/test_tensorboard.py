"""What the logger promises, read back with TensorBoard's own reader."""

import attrs
import pytest
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugin_util import markdown_to_safe_html

from dovetail import loggers
from dovetail.errors import OptionError, UserError
from dovetail.testing import part_checks, tiny_rollouts
from dovetail_tensorboard import TensorBoard
from dovetail_trainer.run import Run


@pytest.mark.parametrize("check", part_checks("loggers", "tensorboard"), ids=str)
def test_conformance(check):
    """It keeps what every logger promises."""
    check()


@pytest.fixture
def run(tmp_path):
    return Run(tmp_path, "x")


def started(run, **options) -> TensorBoard:
    logger = TensorBoard(**options)
    logger.on_run_start(run)
    return logger


def log_steps(run, steps, loss) -> None:
    logger = started(run)
    for step in steps:
        logger.log_metrics(step, {"loss": loss})
    logger.close()


def read(run) -> EventAccumulator:
    events = EventAccumulator(str(run.directory / "tensorboard"))
    events.Reload()
    return events


def text(event) -> str:
    return event.tensor_proto.string_val[0].decode()


@pytest.mark.parametrize(
    ("resumed_at", "again", "expected"),
    [
        (2, [3], [(0, 1.0), (1, 1.0), (2, 1.0), (3, 30.0)]),
        (0, [0, 1], [(0, 30.0), (1, 30.0)]),
    ],
)
def test_a_resumed_run_purges_what_it_does_again(run, resumed_at, again, expected):
    """At step 0 that is everything, the evaluation before the first step included."""
    log_steps(run, [0, 1, 2, 3], loss=1.0)
    run.step = resumed_at
    log_steps(run, again, loss=30.0)
    assert [(event.step, event.value) for event in read(run).Scalars("loss")] == expected


@pytest.mark.parametrize("name", ["curve.png", "CURVE.PNG"])
def test_pictures_become_images(run, name):
    """They stand at the step that was last done, also right after a resume."""
    Image.new("RGB", (4, 6)).save(run.directory / name)
    run.step = 7
    logger = started(run)
    logger.log_artifact(run.directory / name, "curve")
    logger.close()
    (image,) = read(run).Images("curve")
    assert (image.step, image.width, image.height) == (7, 4, 6)


def test_other_artifacts_are_named(run):
    """The text is their path."""
    logger = started(run)
    logger.log_artifact(run.directory / "final", "final")
    logger.close()
    (event,) = read(run).Tensors("artifacts/final/text_summary")
    assert text(event) == str(run.directory / "final")


@pytest.mark.parametrize("completion", ["<think>\n# a\n</think>\n\n**b**", "```\n</code>", ""])
def test_samples_are_shown_as_they_are(run, completion):
    """Neither Markdown nor tags in a completion change what TensorBoard shows."""
    logger = started(run, rollouts=1)
    logger.log_rollouts(3, attrs.evolve(tiny_rollouts(), decode=lambda tokens: completion))
    logger.close()
    (event,) = read(run).Tensors("rollouts/0/text_summary")
    shown = markdown_to_safe_html(text(event))
    assert event.step == 3
    assert "question 0" in shown
    assert completion.replace("<", "&lt;").replace(">", "&gt;") in shown


@pytest.mark.parametrize(("rollouts", "shown"), [(0, 0), (2, 2), (100, 8)])
def test_as_many_samples_are_shown_as_were_asked_for(run, rollouts, shown):
    """A batch may have fewer."""
    logger = started(run, rollouts=rollouts)
    logger.log_rollouts(1, tiny_rollouts())
    logger.close()
    assert sum(tag.startswith("rollouts/") for tag in read(run).Tags()["tensors"]) == shown


def test_a_folder_that_cannot_be_written_is_told(run):
    """Before the first step."""
    (run.directory / "file").write_text("")
    with pytest.raises(UserError, match="cannot be written"):
        started(run, path="file/events")


def test_a_negative_number_of_samples_is_refused():
    """The error names the option."""
    with pytest.raises(OptionError, match="rollouts"):
        loggers.tensorboard(rollouts=-1)
