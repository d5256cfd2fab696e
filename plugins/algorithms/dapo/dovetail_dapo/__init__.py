"""GRPO with clip-higher, dynamic sampling and overlong shaping."""
