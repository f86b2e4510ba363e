"""`--weights` from a stranger."""

from __future__ import annotations

import zipfile

import pytest

from fasttrain.errors import UserError
from fasttrain.model.factory import create_model


def test_weights_that_would_unpack_to_more_than_they_are_are_refused(tmp_path):
    bomb = tmp_path / "weights.pth"
    with zipfile.ZipFile(bomb, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("archive/data/0", bytes(50_000_000))
    with pytest.raises(UserError, match="refused, as it would unpack to"):
        create_model("mobilenetv2_035", 3, weights=bomb)
