"""Floor 6: configuration: files in, a trainer out, the resolved words back."""
