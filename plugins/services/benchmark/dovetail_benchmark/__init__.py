"""Where the time of a run goes: a monitor, a profile, and the floor that the machine sets."""
