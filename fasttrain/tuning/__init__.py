"""Finding settings: a learning-rate range test, and a search with Optuna."""
