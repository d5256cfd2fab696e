"""What a pipeline is made of, once it is read."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import attrs

from dovetail.settings import TrainSettings
from dovetail_trainer.config.schema import AgentConfig, PartConfig, RunConfig
from dovetail_trainer.settings import DataSettings

#: What a stage leaves to others. ``rows`` is a file of rows of a kind that is not known.
Output = Literal["model", "reward model", "pairs", "answers", "rows", "figures"]
ROWS: tuple[Output, ...] = ("rows", "pairs", "answers")


@attrs.frozen
class StepConfig:
    """A stage that makes data or figures, and learns nothing: its step, and the words that it shares with runs."""

    step: Any
    policy: AgentConfig | None = None
    agents: Mapping[str, AgentConfig] = attrs.field(factory=dict)
    data: DataSettings | None = None
    rewards: tuple[PartConfig, ...] = ()
    settings: TrainSettings = attrs.field(factory=TrainSettings)


@attrs.frozen
class Stage:
    """One stage: what it does, and where what it gives can be found."""

    name: str
    folder: Path  #: its own, in that of the pipeline
    config: RunConfig | StepConfig | None  #: None if it does not run
    output: Output
    gives: str | None  #: the path that a reference to it stands for; None if there is none
    fate: Literal["runs", "skipped", "replaced"] = "runs"

    @property
    def about(self) -> str:
        """What it does, in a few words."""
        if self.fate == "replaced":
            return f"replaced by {self.gives}"
        if self.fate == "skipped":
            return f"skipped; {self.gives} goes on" if self.gives else "skipped"
        if isinstance(self.config, RunConfig):
            lora = " with LoRA" if self.config.policy.lora is not None else ""
            return f"{self.config.algorithm.use}{lora}, {self.config.steps} steps"
        assert self.config is not None
        return str(self.config.step.name)


@attrs.frozen
class Plan:
    """A whole pipeline, checked. ``words`` are those of its file, with the preset's beneath, to be read again."""

    directory: Path
    stages: tuple[Stage, ...]
    words: Mapping[str, Any]
    folder: Path  #: of the file, where its own code is found
    is_begun: bool = False  #: an earlier process has carried out some of it
