"""What ``dovetail.testing`` offers."""

from dovetail_testing.check import Check, part_checks
from dovetail_testing.kernel_checks import check_kernel
from dovetail_testing.samples import tiny_agent, tiny_rollouts
from dovetail_testing.tool_checks import tool_checks

__all__ = ["Check", "check_kernel", "part_checks", "tiny_agent", "tiny_rollouts", "tool_checks"]
