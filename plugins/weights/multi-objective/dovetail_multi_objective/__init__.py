"""Several rewards at once."""
