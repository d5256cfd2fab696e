"""For authors of plugins: the conformance kit behind ``dovetail.testing``, and ``dovetail new``."""
