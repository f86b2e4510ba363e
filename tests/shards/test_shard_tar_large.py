from __future__ import annotations

import hashlib
import io
import tarfile

from fasttrain.shards.tar import TarWriter


def test_more_than_is_written_at_once_is_what_tarfile_writes() -> None:
    photos = {f"class/photo_{number:03}": bytes([number]) * (number * 1237) for number in range(90)}
    ours, theirs = io.BytesIO(), io.BytesIO()
    tar = TarWriter(ours)
    offsets = [tar.add(key, photo, label, "npy", b"head") for label, (key, photo) in enumerate(photos.items())]
    tar.close()
    with tarfile.open(fileobj=theirs, mode="w", format=tarfile.USTAR_FORMAT) as writer:
        for label, (key, photo) in enumerate(photos.items()):
            for name, data in ((f"{key}.npy", b"head" + photo), (f"{key}.cls", b"%d" % label)):
                info = tarfile.TarInfo(name)
                info.size = len(data)
                writer.addfile(info, io.BytesIO(data))
    assert len(ours.getvalue()) > 4 << 20
    assert ours.getvalue() == theirs.getvalue()
    assert tar.sha256 == hashlib.sha256(theirs.getvalue()).hexdigest()
    assert tar.size == len(ours.getvalue())
    for offset, photo in zip(offsets, photos.values(), strict=True):
        assert ours.getvalue()[offset : offset + len(photo)] == photo
