"""Tools that find settings: a learning-rate range test, and a search with Optuna."""
