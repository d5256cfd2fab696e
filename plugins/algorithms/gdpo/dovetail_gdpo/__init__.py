"""GRPO that normalises each reward by itself."""
