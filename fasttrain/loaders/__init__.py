"""Loaders: read shards and deliver uint8 NHWC batches, all following the same augmentation plan."""
