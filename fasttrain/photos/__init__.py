"""Photographs: where they come from, how they are split, and the JPEG each is stored as."""
