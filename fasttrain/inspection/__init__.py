"""Looks into shards: what they hold, what is in them twice, what is broken."""
