"""Measuring runs. It is a distribution of its own, dovetail-benchmark, because a run does not need it."""

from dovetail.errors import UserError

try:
    from dovetail_benchmark.monitor import TrainingMonitor
except ModuleNotFoundError as error:
    if error.name != "dovetail_benchmark":
        raise
    raise UserError("the benchmarks are not installed", hint='pip install "dovetail[benchmark]"') from error

__all__ = ["TrainingMonitor"]
