"""Loggers: one that fails is reported once and switched off, and never stops a run."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import structlog

from dovetail.parts import Part
from dovetail.rollouts import Rollouts

log = structlog.get_logger()


class Sinks:
    """The loggers of a run."""

    def __init__(self, loggers: Iterable[Part]) -> None:
        self._active = list(loggers)

    def metrics(self, step: int, metrics: Mapping[str, float]) -> None:
        self._tell("log_metrics", {"step": step, "metrics": metrics})

    def rollouts(self, step: int, rollouts: Rollouts) -> None:
        self._tell("log_rollouts", {"step": step, "rollouts": rollouts})

    def artifact(self, path: Path, name: str) -> None:
        self._tell("log_artifact", {"path": path, "name": name})

    def close(self) -> None:
        self._tell("close", {})

    def _tell(self, hook: str, arguments: Mapping[str, Any]) -> None:
        for logger in list(self._active):
            if not logger.has(hook):
                continue
            try:
                logger.call(hook, arguments)
            except Exception as error:  # a broken sink must not cost a run
                self._active.remove(logger)
                log.error("a logger failed and is switched off", logger=str(logger), error=str(error))
