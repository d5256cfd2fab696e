"""Runs: the trainer, checkpoints and resume, configuration files, the command line."""
