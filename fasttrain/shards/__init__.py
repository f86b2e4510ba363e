"""Shards: how photographs are stored on disk. `convert` writes them and every loader reads them."""
