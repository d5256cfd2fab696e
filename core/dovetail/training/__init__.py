"""Floor 6: runs: batches, checkpoints, evaluation, the loop."""
