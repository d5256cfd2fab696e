"""GRPO without its biases: no standard deviation, one denominator."""
