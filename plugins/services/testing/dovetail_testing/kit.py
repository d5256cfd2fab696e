"""What ``dovetail.testing`` offers."""

from dovetail_testing.check import Check, part_checks
from dovetail_testing.samples import tiny_agent, tiny_rollouts

__all__ = ["Check", "part_checks", "tiny_agent", "tiny_rollouts"]
