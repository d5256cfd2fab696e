"""Measuring runs and kernels. It is a distribution of its own, dovetail-benchmark, because a run does not need it."""

from typing import Any

from dovetail import load


def __getattr__(name: str) -> Any:
    return getattr(load("dovetail_benchmark.names"), name)
