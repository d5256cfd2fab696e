"""Pipelines of stages: from demonstrations over preferences to a policy, resumable, with one report."""
