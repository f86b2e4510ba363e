"""Runs logged to MLflow: a journal on the disk first, the store (a server, or local SQLite) from a thread."""
