"""Options that move while a run goes on: held at a target by what is measured, or along a schedule."""
