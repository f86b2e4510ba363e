"""The formats of `export` in tests, which skip those whose extra isn't installed."""

from __future__ import annotations

import pytest

from fasttrain.errors import UserError
from fasttrain.export.base import Format
from fasttrain.export.registry import FORMATS, make_format


def format_or_skip(name: str) -> Format:
    """Return the format `name`, or skip the test with the line that installs it."""
    assert name in FORMATS
    try:
        return make_format(name)
    except UserError as error:
        pytest.skip(str(error))
