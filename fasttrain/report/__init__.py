"""What a run leaves behind: its folder of artifacts, its figures, its summary."""
