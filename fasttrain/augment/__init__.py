"""Augmentation of batches on the device, drawn from the augmentation plan."""
