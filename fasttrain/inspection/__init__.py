"""Inspect data sets: contents, duplicates, broken samples, doubtful labels, and photographs as the model sees them."""
