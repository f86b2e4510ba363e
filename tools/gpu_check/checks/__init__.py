"""The checks, in a module for each subject."""
