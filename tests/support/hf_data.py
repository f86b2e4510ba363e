"""Data sets in Hugging Face's forms, as `datasets` writes them, and a Hub on loopback that serves them."""

from __future__ import annotations

import hashlib
import io
import json
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import pyarrow as pa
import pyarrow.parquet as parquet
from PIL import Image

NAMES = ["pear", "apple"]  # in an order that isn't the alphabet's
COMMIT = "0123456789abcdef0123456789abcdef01234567"


def jpeg(number: int) -> bytes:
    """Return a small JPEG of one colour, another one for each number below 250."""
    file = io.BytesIO()
    Image.new("RGB", (16, 16), (number, 255 - number, 7 * number % 256)).save(file, "JPEG")
    return file.getvalue()


def rows(first: int, count: int, **columns: Sequence[Any]) -> pa.Table:
    """Return rows of photographs `first`, `first + 1`, …, whose classes take turns; `columns` are further ones."""
    numbers = range(first, first + count)
    images = [{"bytes": jpeg(number), "path": f"{number}.jpg"} for number in numbers]
    image = pa.array(images, pa.struct([("bytes", pa.binary()), ("path", pa.string())]))
    return pa.table({"image": image, "label": [number % 2 for number in numbers], **columns})


def with_features(table: pa.Table, names: Sequence[str] = NAMES, **more: Any) -> pa.Table:
    """Return the table with what `datasets` notes in its schema."""
    features = {"image": {"_type": "Image"}, "label": {"names": list(names), "_type": "ClassLabel"}, **more}
    return table.replace_schema_metadata({"huggingface": json.dumps({"info": {"features": features}})})


def write_parquet(path: Path, table: pa.Table, **options: Any) -> Path:
    """Write a Parquet file, two rows a row group."""
    path.parent.mkdir(parents=True, exist_ok=True)
    parquet.write_table(table, path, **{"row_group_size": 2, **options})
    return path


def save_to_disk(folder: Path, table: pa.Table, files: int = 2) -> Path:
    """Write what `Dataset.save_to_disk` does: Arrow streams, state.json, dataset_info.json."""
    folder.mkdir(parents=True)
    size = -(-table.num_rows // files)
    names = [f"data-{number:05d}-of-{files:05d}.arrow" for number in range(files)]
    for number, name in enumerate(names):
        part = table.slice(number * size, size)
        with (folder / name).open("wb") as file, pa.ipc.new_stream(file, part.schema) as stream:
            stream.write_table(part, max_chunksize=2)
    metadata = table.schema.metadata
    info = json.loads(metadata[b"huggingface"])["info"] if metadata else {"features": {}}
    (folder / "dataset_info.json").write_text(json.dumps(info))
    state = {"_data_files": [{"filename": name} for name in names], "_fingerprint": "1", "_split": None}
    (folder / "state.json").write_text(json.dumps(state))
    return folder


class Hub:
    """Serves data sets: files by data set, revision and path. What was asked for is in `asked`.

    token: what a client must send. cut: the first answer for this file ends half-way. damage: this file is sent
    with one byte changed.
    """

    def __init__(self) -> None:
        self.files: dict[tuple[str, str], dict[str, bytes]] = {}
        self.asked: list[str] = []
        self.token: str | None = None
        self.gated = False
        self.cut: str | None = None
        self.damage: str | None = None
        self.url = ""

    def add(self, name: str, files: dict[str, bytes], revision: str = "main") -> None:
        self.files[name, revision] = files

    def commit(self, revision: str) -> str:
        return hashlib.sha1(revision.encode()).hexdigest()

    def find(self, name: str, revision: str) -> tuple[str, dict[str, bytes]] | None:
        for (each, known), files in self.files.items():
            if each == name and revision in (known, self.commit(known)):
                return known, files
        return None


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    hub: Hub

    def do_HEAD(self) -> None:
        self._answer()

    def do_GET(self) -> None:
        self._answer()

    def _answer(self) -> None:
        hub, path = self.hub, unquote(urlsplit(self.path).path)
        hub.asked.append(f"{self.command} {path}")
        if hub.token is not None and self.headers.get("Authorization") != f"Bearer {hub.token}":
            return self._send(401, b"{}", {"X-Error-Code": "GatedRepo" if hub.gated else "RepoNotFound"})
        if path.startswith("/api/datasets/"):
            name, _, revision = path.removeprefix("/api/datasets/").partition("/revision/")
            return self._info(name, revision or "main")
        name, _, rest = path.removeprefix("/datasets/").partition("/resolve/")
        revision, _, file = rest.partition("/")
        return self._file(name, revision, file)

    def _info(self, name: str, revision: str) -> None:
        found = self.hub.find(name, revision)
        if found is None:
            known = any(name == each for each, _ in self.hub.files)
            return self._send(404, b"{}", {"X-Error-Code": "RevisionNotFound" if known else "RepoNotFound"})
        siblings = []
        for file, data in found[1].items():
            digest = hashlib.sha256(data).hexdigest()
            lfs = {} if file.endswith(".md") else {"lfs": {"sha256": digest, "size": len(data), "pointerSize": 132}}
            siblings.append({"rfilename": file, "size": len(data), "blobId": digest[:40], **lfs})
        plain = {"_id": "1", "id": name, "sha": self.hub.commit(found[0]), "siblings": siblings, "tags": []}
        return self._send(200, json.dumps(plain).encode(), {"Content-Type": "application/json"})

    def _file(self, name: str, revision: str, file: str) -> None:
        found = self.hub.find(name, revision)
        if found is None or file not in found[1]:
            return self._send(404, b"", {"X-Error-Code": "EntryNotFound"})
        data = found[1][file]
        headers = {
            "ETag": f'"{hashlib.sha256(data).hexdigest()}"',
            "X-Repo-Commit": self.hub.commit(found[0]),
            "Accept-Ranges": "bytes",
        }
        if self.hub.damage == file:
            data = data[:-99] + bytes([data[-99] ^ 1]) + data[-98:]
        start = int((self.headers.get("Range") or "bytes=0-").removeprefix("bytes=").partition("-")[0])
        if start:
            headers["Content-Range"] = f"bytes {start}-{len(data) - 1}/{len(data)}"
        cut = self.command == "GET" and self.hub.cut == file
        if cut:
            self.hub.cut = None
        return self._send(206 if start else 200, data[start:], headers, cut=cut)

    def _send(self, status: int, body: bytes, headers: dict[str, str], *, cut: bool = False) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body[: len(body) // 2] if cut else body)
        self.close_connection = self.close_connection or cut

    def log_message(self, *arguments: object) -> None:
        pass


@contextmanager
def running_hub() -> Iterator[Hub]:
    """Yield a Hub that answers at `url`."""
    hub = Hub()
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Handler,), {"hub": hub}))
    hub.url = f"http://127.0.0.1:{server.server_port}"
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield hub
    server.shutdown()
    server.server_close()
