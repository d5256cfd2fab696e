"""An agent's optimizer and schedule, by import path."""

from __future__ import annotations

import importlib
from collections.abc import Iterable
from typing import Any

import torch

from dovetail.errors import DovetailError, UserError
from dovetail.settings import OptimizerSettings


def import_by_path(path: str) -> Any:
    """Import ``package.module.Name``.

    Raises:
        UserError: There is no such thing.
    """
    module, _, name = path.rpartition(".")
    try:
        return getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError, ValueError) as error:
        raise UserError(
            f"{path!r} cannot be imported: {error}", hint="write the full import path of a class"
        ) from error


class Learning:
    """Steps the optimizer of one agent."""

    def __init__(self, parameters: Iterable[torch.nn.Parameter], settings: OptimizerSettings) -> None:
        self._parameters = [parameter for parameter in parameters if parameter.requires_grad]
        self._settings = settings
        cls = import_by_path(settings.use)
        options = {"lr": settings.lr, **settings.options}
        if settings.weight_decay or "weight_decay" in cls.__init__.__code__.co_varnames:
            options.setdefault("weight_decay", settings.weight_decay)
        try:
            self.optimizer = cls(self._parameters, **options)
        except TypeError as error:
            raise UserError(f"the optimizer {settings.use} refuses its options: {error}") from error
        self.schedule = self._schedule()

    def _schedule(self) -> Any:
        """The warm-up, then the schedule; None keeps the learning rate."""
        settings, warmup = self._settings, self._settings.warmup_steps
        rising = (
            torch.optim.lr_scheduler.LinearLR(self.optimizer, 1 / (warmup + 1), total_iters=warmup) if warmup else None
        )
        if settings.schedule is None:
            return rising
        cls = import_by_path(settings.schedule)
        try:
            following = cls(self.optimizer, **settings.schedule_options)
        except TypeError as error:
            raise UserError(f"the schedule {settings.schedule} refuses its options: {error}") from error
        if rising is None:
            return following
        return torch.optim.lr_scheduler.SequentialLR(self.optimizer, [rising, following], milestones=[warmup])

    def zero_grad(self) -> None:
        self.optimizer.zero_grad(set_to_none=True)

    def update(self) -> dict[str, float]:
        """Clip, step, advance the schedules.

        Raises:
            DovetailError: The gradient is not finite; no weight has changed.
        """
        limit = self._settings.max_grad_norm
        norm = torch.nn.utils.clip_grad_norm_(self._parameters, limit if limit is not None else float("inf"))
        if not bool(torch.isfinite(norm)):
            raise DovetailError(
                f"the gradient norm is {norm.item()}; the weights are as before this step",
                hint="lower the learning rate, or resume from the last checkpoint with another seed",
            )
        lr = self.optimizer.param_groups[0]["lr"]
        self.optimizer.step()
        if self.schedule is not None:
            self.schedule.step()
        return {"grad_norm": norm.item(), "lr": lr}

    def state_dict(self) -> dict[str, Any]:
        schedule = self.schedule.state_dict() if self.schedule is not None else None
        return {"optimizer": self.optimizer.state_dict(), "schedule": schedule}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.optimizer.load_state_dict(state["optimizer"])
        if self.schedule is not None:
            self.schedule.load_state_dict(state["schedule"])
