"""Agents for all tests of this folder."""

from talkers import agent_of

__all__ = ["agent_of"]
