"""Score rewards in worker processes, which are killed at the deadline."""
