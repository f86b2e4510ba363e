"""Evaluation: how good a model is, on which classes, and what it takes a photograph for."""
