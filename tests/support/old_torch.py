"""The oldest torch that is allowed rounds more coarsely when it resizes uint8 pictures, which are the reference."""

import torch

OLD_TORCH = torch.__version__.startswith("2.6.")
