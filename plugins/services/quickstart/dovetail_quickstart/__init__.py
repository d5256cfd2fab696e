"""The quickstart: two ordinary configurations and a command that runs them."""
