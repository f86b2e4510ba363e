"""Test fasttrain on a GPU machine: `python -m tools.gpu_check` runs twelve checks, each in a process of its own."""
