"""The settings of a run: one definition, with the same names in Python, on the command line, in TOML and in MLflow."""
