"""Plays episodes: many in flight over one generator, tokens in and tokens out, rewards by turn."""
