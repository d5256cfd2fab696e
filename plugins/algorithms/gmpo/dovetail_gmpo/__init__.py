"""GRPO on the geometric mean of ratios."""
