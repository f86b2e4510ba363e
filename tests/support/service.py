"""`fasttrain serve` as a process, and clients of it: well-behaved ones and others."""

from __future__ import annotations

import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from tests.support import warm
from tests.support.patience import PATIENCE, wait_until


class Service:
    """A service that answers, and its log."""

    def __init__(self, process: subprocess.Popen[bytes], address: str, log: Path) -> None:
        self.process, self.address, self._log = process, address, log
        parts = urlsplit(address)
        assert parts.hostname and parts.port
        self._where = parts.hostname, parts.port

    def ask(
        self, method: str, path: str, body: Any = None, headers: dict[str, str] | None = None
    ) -> tuple[int, Any, http.client.HTTPMessage]:
        """Return status, content (parsed where it is JSON) and headers. An iterator is sent in chunks."""
        connection = http.client.HTTPConnection(*self._where, timeout=PATIENCE)
        try:
            connection.request(method, path, body, headers or {})
            answer = connection.getresponse()
            content: Any = answer.read()
            if answer.headers.get_content_type() == "application/json":
                content = json.loads(content)
            return answer.status, content, answer.headers
        finally:
            connection.close()

    def predict(self, *photographs: bytes, query: str = "", **headers: str) -> tuple[int, Any, http.client.HTTPMessage]:
        """Post one photograph as it is, or several as a form."""
        if len(photographs) == 1:
            return self.ask("POST", f"/predict{query}", photographs[0], headers)
        body, kind = form(photographs)
        return self.ask("POST", f"/predict{query}", body, {"Content-Type": kind, **headers})

    def begin(self, data: bytes) -> socket.socket:
        """Return a connection on which `data` was sent."""
        connection = socket.create_connection(self._where, timeout=PATIENCE)
        connection.sendall(data)
        return connection

    def log(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self._log.read_text("utf-8").splitlines()]

    def metric(self, name: str, path: str = "/metrics") -> float:
        _, page, _ = self.ask("GET", path)
        return float(next(line.split()[1] for line in page.decode().splitlines() if line.startswith(f"{name} ")))

    def wait_for_queue(self, length: int) -> None:
        wait_until(lambda: self.metric("fasttrain_queue") == length)


def form(files: Sequence[bytes], name: str = "images") -> tuple[bytes, str]:
    """Return the body and the Content-Type of a form of `files`, which are called 0.jpg, 1.jpg and so on."""
    boundary = uuid.uuid4().hex
    parts = [
        f'--{boundary}\r\nContent-Disposition: form-data; name="{name}"; filename="{number}.jpg"\r\n\r\n'.encode()
        + data
        + b"\r\n"
        for number, data in enumerate(files)
    ]
    return b"".join(parts) + f"--{boundary}--\r\n".encode(), f"multipart/form-data; boundary={boundary}"


def head(length: int | None) -> bytes:
    """Return the head of a request to predict, whose body has `length` bytes, or comes in chunks."""
    body = "Transfer-Encoding: chunked" if length is None else f"Content-Length: {length}"
    return f"POST /predict HTTP/1.1\r\nHost: here\r\n{body}\r\n\r\n".encode()


def answer_of(connection: socket.socket) -> bytes:
    """Return all that comes until the service closes the connection."""
    with connection:
        return b"".join(iter(lambda: connection.recv(65_536), b""))


@contextmanager
def serving(model: Path, folder: Path, *options: str, cold: bool = False, **environment: str) -> Iterator[Service]:
    """A service of `model` until the end of the context; its log is in `folder`. A `cold` one is as users start it."""
    log, errors = folder / "log.jsonl", folder / "errors.txt"
    command = ["-m", "fasttrain", "serve", str(model), "--port", "0", "--device", "cpu", *options]
    with log.open("wb") as out, errors.open("wb") as error:
        streams: Any = {"cwd": folder, "stdout": out, "stderr": error}
        if cold:
            process = subprocess.Popen([sys.executable, *command], env={**os.environ, **environment}, **streams)
        else:
            process = warm.Popen(command, env={**os.environ, "OMP_NUM_THREADS": "1", **environment}, **streams)
        try:
            wait_until(lambda: b"Ctrl-C" in errors.read_bytes() or process.poll() is not None)
            if process.poll() is not None:
                pytest.fail(errors.read_text())
            yield Service(process, errors.read_text().split()[1], log)
        finally:
            process.send_signal(signal.SIGKILL) if process.poll() is None else None
            process.wait()
