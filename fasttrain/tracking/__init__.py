"""Runs in MLflow, W&B and TensorBoard: threads bring what a run's folder holds to a server or a local file."""
