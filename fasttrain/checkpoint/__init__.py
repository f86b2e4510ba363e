"""Checkpoints, from which a run resumes, and the other files in a run's folder."""
