"""Which tasks a run draws: the easy ones first, or those that it is about to learn."""
