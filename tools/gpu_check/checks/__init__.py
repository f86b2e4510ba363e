"""The checks themselves, a module for each group of them."""
