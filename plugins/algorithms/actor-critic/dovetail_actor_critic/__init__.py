"""Value-based credit: an estimator and a loss for a value model."""
