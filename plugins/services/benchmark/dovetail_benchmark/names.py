"""What ``dovetail.benchmark`` lends."""

from dovetail_benchmark.kernels import KernelBenchmark
from dovetail_benchmark.monitor import TrainingMonitor

__all__ = ["KernelBenchmark", "TrainingMonitor"]
