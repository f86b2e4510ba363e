"""Photographs: read a data set from its source, divide it into splits, and prepare each photograph for storage."""
