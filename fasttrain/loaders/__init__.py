"""Loaders: shards in, uint8 NHWC batches out; one augmentation plan for all of them."""
