"""The conformance kit: what every part of a kind promises, as checks for pytest.

import pytest
from dovetail.testing import part_checks

@pytest.mark.parametrize("check", part_checks("rewards", "brevity", bounds=(-1, 0)), ids=str)
def test_conformance(check):
    check()
"""

from dovetail.testing.check import Check, part_checks
from dovetail.testing.samples import tiny_agent, tiny_rollouts

__all__ = ["Check", "part_checks", "tiny_agent", "tiny_rollouts"]
