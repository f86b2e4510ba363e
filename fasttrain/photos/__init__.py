"""Photographs: their sources, their splits, and the JPEG that each is stored as."""
