"""dovetail and a peer on the same work: one module for the work, one for each side."""
