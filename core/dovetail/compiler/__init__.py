"""Floor 5: passes that turn a recipe graph into a plan."""
