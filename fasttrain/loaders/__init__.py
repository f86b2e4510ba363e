"""Loaders read shards and deliver batches, uint8 [n, H, W, 3]. All loaders follow the same augmentation plan."""
