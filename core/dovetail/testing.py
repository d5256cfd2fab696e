"""The conformance kit. It is a distribution of its own, dovetail-testing, because only authors of plugins need it."""

from typing import Any

from dovetail import load


def __getattr__(name: str) -> Any:
    return getattr(load("dovetail_testing.kit"), name)
