"""Maximum-likelihood credit for verifiable rewards."""
