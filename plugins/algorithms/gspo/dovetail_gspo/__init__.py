"""GRPO on the ratio of whole sequences."""
