"""Shards: how photographs lie on disk, written by `convert`, read by every loader."""
