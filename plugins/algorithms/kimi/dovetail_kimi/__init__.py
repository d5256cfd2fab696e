"""Online mirror descent as in Kimi k1.5."""
