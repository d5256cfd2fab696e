"""What estimators are made of: discounted sums within rows, and whitening over all tokens."""

from dovetail_advantages.sums import discounted_sums, scan
from dovetail_advantages.whitening import whitened

__all__ = ["discounted_sums", "scan", "whitened"]
