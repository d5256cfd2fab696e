"""The conformance kit: what every part of a kind promises, as checks for pytest.

It is a distribution of its own, dovetail-testing, because only authors of plugins need it.
"""

from dovetail.errors import UserError

try:
    from dovetail_testing.check import Check, part_checks
    from dovetail_testing.samples import tiny_agent, tiny_rollouts
except ModuleNotFoundError as error:
    if error.name != "dovetail_testing":
        raise
    raise UserError("the conformance kit is not installed", hint='pip install "dovetail[testing]"') from error

__all__ = ["Check", "part_checks", "tiny_agent", "tiny_rollouts"]
