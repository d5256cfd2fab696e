"""Floor 6: agents: a model, its tokenizer, and what trains it."""
