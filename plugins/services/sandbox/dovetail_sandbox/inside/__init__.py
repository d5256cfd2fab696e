"""What runs inside the sandbox. Standard library only: the sources are sent there as text, nothing is read from disk."""
