"""Checkpoints: everything a run needs to go on, in one file of tensors and plain data."""
