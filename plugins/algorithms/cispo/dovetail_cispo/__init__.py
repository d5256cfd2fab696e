"""GRPO whose clip bounds the weight and keeps the gradient."""
