"""Inspect shards: their contents, duplicates, and broken samples."""
