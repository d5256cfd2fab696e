"""Learning from preferences, without a reward model."""
