"""Floor 4: recipes as graphs: typed nodes, edits, differences, drawings."""
