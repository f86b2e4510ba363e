"""The commands as Python functions. Each takes settings, and writes and returns its results."""
