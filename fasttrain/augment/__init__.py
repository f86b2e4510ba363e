"""Augmentation of whole batches on the device, drawn from the augmentation plan."""
