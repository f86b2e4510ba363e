"""Checkpoints: everything that a run needs to resume, in one file of tensors and plain data."""
