"""Track runs in MLflow, W&B and TensorBoard: threads deliver what a run's folder holds to a server or a local file."""
