"""Reward models: trained on preferences, and scoring with an idea of what they do not know."""
