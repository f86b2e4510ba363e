"""The data pipeline as a library: `Loader`, its crops and transforms, and `decode`."""
