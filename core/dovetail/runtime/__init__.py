"""Floor 5: running a plan: model calls, scoring, reductions, the learning loop."""
