"""REINFORCE and its baselines."""
