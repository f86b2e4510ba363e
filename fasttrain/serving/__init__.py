"""A trained model as an HTTP service: `fasttrain serve`."""
