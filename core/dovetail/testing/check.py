"""Collecting the checks of a part."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from typing import Any

import attrs

from dovetail.parts import Part, check_hooks, options_of
from dovetail.registry import registry

_MODULES = {
    "rewards": "reward_checks",
    "advantages": "advantage_checks",
    "losses": "loss_checks",
    "environments": "environment_checks",
    "generators": "generator_checks",
    "loggers": "logger_checks",
    "recipes": "recipe_checks",
}


@attrs.frozen
class Check:
    """One promise of a part. Calling it raises AssertionError if the part does not keep it."""

    claim: str
    function: Callable[[], None]

    def __call__(self) -> None:
        __tracebackhide__ = True
        self.function()

    def __str__(self) -> str:
        return self.claim


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
            the answer that must score 1 in an environment.
    """
    target, _ = registry(kind).target(name)
    checks = [Check("every option is documented", lambda: _options_are_documented(target))]
    if kind != "recipes":
        part: Part = registry(kind)[name](**(options or {}))
        checks.append(Check("the hooks fit their specs", lambda: check_hooks(part)))
        checks.append(Check("two equal parts can serve in one run", lambda: _twins_fit(part)))
    else:
        part = target
    if kind in _MODULES:
        module = importlib.import_module(f"dovetail.testing.{_MODULES[kind]}")
        checks += [Check(claim, function) for claim, function in module.checks(part, **facts)]
    waived = dict(waive or {})
    unknown = set(waived) - {check.claim for check in checks}
    if unknown:
        raise ValueError(f"no check claims {sorted(unknown)[0]!r}; the claims are {[c.claim for c in checks]}")
    return [_waived(check, waived[check.claim]) if check.claim in waived else check for check in checks]


def _waived(check: Check, reason: str) -> Check:
    def must_fail() -> None:
        try:
            check.function()
        except AssertionError:
            return
        raise AssertionError(f"the waiver of {check.claim!r} ({reason}) is stale: the part keeps it")

    return Check(f"waived: {check.claim}", must_fail)


def _options_are_documented(target: Any) -> None:
    options = getattr(target, "options", None) or options_of(target)
    missing = [option.name for option in options if not option.doc]
    assert not missing, f"these options are missing in the docstring's Args: {missing}"


def _twins_fit(part: Part) -> None:
    from dovetail.parts import PartManager

    PartManager([part, attrs.evolve(part, label="twin")])
