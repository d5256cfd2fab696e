"""Value-based augmented proximal policy optimisation."""
