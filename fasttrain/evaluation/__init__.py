"""Evaluate a model: metrics, which are accumulated on the device, and predictions for each photograph."""
