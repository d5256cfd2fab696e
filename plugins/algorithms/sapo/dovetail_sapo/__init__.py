"""GRPO with a soft gate in the place of the clip."""
