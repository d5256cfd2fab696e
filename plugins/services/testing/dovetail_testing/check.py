"""Collecting the checks of a part."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from typing import Any

import attrs

from dovetail.graph.recipe import Recipe
from dovetail.parts import Part, check_hooks, options_of
from dovetail.registry import registry
from dovetail_testing import (
    advantage_checks,
    environment_checks,
    generator_checks,
    logger_checks,
    loss_checks,
    recipe_checks,
    reward_checks,
    weight_checks,
)
from dovetail_trainer.manager import PartManager

_CHECKS: Mapping[str, Callable[..., Mapping[str, Callable[[Any], None]]]] = {
    "rewards": reward_checks.checks,
    "weights": weight_checks.checks,
    "advantages": advantage_checks.checks,
    "losses": loss_checks.checks,
    "environments": environment_checks.checks,
    "generators": generator_checks.checks,
    "loggers": logger_checks.checks,
    "recipes": recipe_checks.checks,
}


@attrs.frozen
class Check:
    """One promise of a part. Calling it raises AssertionError if the part does not keep it, or keeps a waived one."""

    claim: str
    function: Callable[[], None]
    waiver: str | None = None

    def __call__(self) -> None:
        __tracebackhide__ = True
        try:
            self.function()
        except AssertionError:
            if self.waiver is None:
                raise
        else:
            assert self.waiver is None, f"the waiver of {self.claim!r} ({self.waiver}) is stale: the part keeps it"

    def __str__(self) -> str:
        return self.claim if self.waiver is None else f"waived: {self.claim}"


def part_checks(
    kind: str,
    name: str,
    *,
    options: Mapping[str, Any] | None = None,
    waive: Mapping[str, str] | None = None,
    **facts: Any,
) -> list[Check]:
    """The checks of a part.

    Args:
        kind: Plural, such as ``rewards``.
        name: In the registry.
        options: Of the part.
        waive: Claim to the reason why this part need not keep it. A waiver of a claim that holds fails.
        facts: What the author promises beside: ``bounds=(low, high)`` of a reward; ``gold=function`` from a task to
            the answer that must score 1 in an environment; ``negative=False`` of an estimator for rewards from 0 on.
    """
    promises: dict[str, Callable[[Any], None]] = {"every option is documented": _options_are_documented}
    part = registry(kind)[name]
    if kind != "recipes":
        part = part(**(options or {}))
        promises["the hooks fit their specs"] = check_hooks
        promises["two equal parts can serve in one run"] = _twins_fit
    if kind in _CHECKS:
        promises.update(_CHECKS[kind](part, **facts))
    reasons = waive or {}
    unknown = sorted(set(reasons) - set(promises))
    if unknown:
        raise ValueError(f"no check claims {unknown[0]!r}; the claims are {list(promises)}")
    return [Check(claim, functools.partial(check, part), reasons.get(claim)) for claim, check in promises.items()]


def _options_are_documented(part: Part | Recipe) -> None:
    options = part.options if isinstance(part, Recipe) else options_of(part.target)
    missing = [option.name for option in options if not option.doc]
    assert not missing, f"these options are missing in the docstring's Args: {missing}"


def _twins_fit(part: Part) -> None:
    PartManager([part, attrs.evolve(part, label="twin")])
