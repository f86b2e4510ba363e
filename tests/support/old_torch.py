"""The oldest torch that pyproject.toml allows rounds more coarsely when it resizes uint8 pictures, the tests' reference."""

import torch

OLD_TORCH = torch.__version__.startswith("2.6.")
