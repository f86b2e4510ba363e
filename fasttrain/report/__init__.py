"""The results of a run: its folder of artifacts, its figures, its summary."""
