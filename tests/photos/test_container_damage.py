"""Damaged containers, byte by byte: a line that names the file, or photographs that can't be read, and nothing else."""

from __future__ import annotations

import contextlib
import gzip
import random
import zipfile
from pathlib import Path

import pytest

from fasttrain.errors import UserError
from fasttrain.photos.sources import open_source
from tests.photos.test_betons import FIELDS, row, written
from tests.support.containers import write_tar, write_tfrecord

JPEG = b"\xff\xd8\xff"
TRIES = 150


def packed(folder: Path, kind: str) -> Path:
    path = folder / f"whole.{kind}"
    if kind in ("tar", "tgz"):
        write_tar(path, {f"{name}/{number}": JPEG + bytes(90) for name in ("cat", "dog") for number in range(2)})
        path.write_bytes(gzip.compress(path.read_bytes()) if kind == "tgz" else path.read_bytes())
    elif kind == "wds.tar":
        write_tar(path, {f"{n}.{kind}": JPEG if kind == "jpg" else "1" for n in range(3) for kind in ("jpg", "cls")})
    elif kind == "zip":
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
            for name in ("cat/1", "cat/2.jpg", "dog/3"):
                archive.writestr(name, JPEG + bytes(90))
    elif kind == "tfrecord":
        write_tfrecord(path, [{"image": JPEG, "label": n % 2, "file_name": "a/b.jpg"} for n in range(3)])
    else:
        written(path, FIELDS, [row(0), row(1)], JPEG)
    return path


@pytest.mark.parametrize("kind", ["tar", "tgz", "wds.tar", "zip", "tfrecord", "beton"])
def test_every_damage_is_told(tmp_path, kind) -> None:
    whole = packed(tmp_path, kind).read_bytes()
    path = tmp_path / f"damaged.{kind}"
    draw = random.Random(kind)
    refused = 0
    for _ in range(TRIES):
        data, place = bytearray(whole), draw.randrange(min(len(whole), 4000))
        if draw.random() < 0.2:
            del data[place:]
        else:
            piece = draw.choice((b"\0", b"\xff", b"\xff" * 8, b"\0" * 8, b"7" * 8, bytes([data[place] ^ 1])))
            data[place : place + len(piece)] = piece
        path.write_bytes(data)
        try:
            source = open_source(path, least_classes=1)
        except UserError as error:
            assert "\n" not in str(error) and path.name in str(error)
            refused += 1
            continue
        for number in range(len(source.paths)):
            with contextlib.suppress(OSError):
                source.read(number)
    assert refused > TRIES / 10
