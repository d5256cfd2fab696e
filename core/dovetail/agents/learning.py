"""What trains an agent: its optimizer and schedule, by import path."""

from __future__ import annotations

import inspect
import math
import pkgutil
from collections.abc import Iterable
from typing import Any

import torch
from torch.optim.lr_scheduler import LinearLR, SequentialLR

from dovetail.errors import DovetailError, UserError
from dovetail.settings import OptimizerSettings


class Learning:
    """Steps the optimizer of one agent."""

    def __init__(self, parameters: Iterable[torch.nn.Parameter], settings: OptimizerSettings) -> None:
        self._parameters, self._max_norm = list(parameters), settings.max_grad_norm or math.inf
        options = {"lr": settings.lr, **settings.options}
        if settings.weight_decay or "weight_decay" in inspect.signature(_imported(settings.use)).parameters:
            options.setdefault("weight_decay", settings.weight_decay)
        if settings.use in ("torch.optim.Adam", "torch.optim.AdamW"):
            options.setdefault("fused", all(parameter.is_floating_point() for parameter in self._parameters))
        self.optimizer = _made("optimizer", settings.use, self._parameters, **options)
        schedules, warmup = list[Any](), settings.warmup_steps
        if warmup:
            schedules.append(LinearLR(self.optimizer, 1 / (warmup + 1), total_iters=warmup))
        if settings.schedule is not None:
            schedules.append(_made("schedule", settings.schedule, self.optimizer, **settings.schedule_options))
        self._stepped = {"optimizer": self.optimizer}
        if schedules:
            both = len(schedules) == 2
            self._stepped["schedule"] = SequentialLR(self.optimizer, schedules, [warmup]) if both else schedules[0]

    def update(self) -> dict[str, float]:
        """Clip, step, advance the schedule, if there are gradients. One that is not finite is a DovetailError."""
        if all(parameter.grad is None for parameter in self._parameters):
            return {}
        norm = torch.nn.utils.clip_grad_norm_(self._parameters, self._max_norm)
        if not bool(torch.isfinite(norm)):
            problem = f"the gradient norm is {norm.item()}; the weights are as before this step"
            hint = "lower the learning rate, or resume from the last checkpoint with another seed"
            raise DovetailError(problem, hint=hint)
        lr = self.optimizer.param_groups[0]["lr"]
        for stepped in self._stepped.values():
            stepped.step()
        return {"grad_norm": norm.item(), "lr": lr}

    def state_dict(self) -> dict[str, Any]:
        return {name: stepped.state_dict() for name, stepped in self._stepped.items()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        for name, stepped in self._stepped.items():
            stepped.load_state_dict(state[name])


def _imported(path: str) -> Any:
    try:
        return pkgutil.resolve_name(path)
    except (ImportError, AttributeError, ValueError) as error:
        hint = "write the full import path of a class"
        raise UserError(f"{path!r} cannot be imported: {error}", hint=hint) from error


def _made(what: str, path: str, *arguments: Any, **options: Any) -> Any:
    try:
        return _imported(path)(*arguments, **options)
    except TypeError as error:
        raise UserError(f"the {what} {path} refuses its options: {error}") from error
