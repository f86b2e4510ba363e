"""The one configuration: the same names in code, on the command line, in TOML, in MLflow and in the README."""
