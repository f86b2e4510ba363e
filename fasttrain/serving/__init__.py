"""`fasttrain serve`: offer a trained model as an HTTP service."""
