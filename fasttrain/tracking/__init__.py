"""Runs in MLflow: a thread syncs the run's folder with the store, a server or a local SQLite file."""
