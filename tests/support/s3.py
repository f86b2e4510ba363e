"""moto's S3 server on a loopback port, in this process: what is asked of it can be counted, spoilt, refused or held."""

from __future__ import annotations

import threading
import urllib.request
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest

moto = pytest.importorskip("moto.server", reason="moto isn't installed: pip install 'moto[server]' s3fs")
s3fs = pytest.importorskip("s3fs")
serving = pytest.importorskip("werkzeug.serving")


class OneRequest(serving.WSGIRequestHandler):
    protocol_version = "HTTP/1.0"  # else open connections would outlive the server


class Bucket:
    """A server that counts what is asked of it, and can die and come back on the same port.

    before_put: called with the name that is written; the status that it returns, "" for none, is the answer.
    """

    def __init__(self) -> None:
        self.gets: Counter[str] = Counter()
        self.spoilt: list[str] = []
        self.before_get: Callable[[str], None] = lambda name: None
        self.puts: Counter[str] = Counter()
        self.before_put: Callable[[str], str] = lambda name: ""
        self._app = moto.DomainDispatcherApplication(moto.create_backend_app)
        self._server: Any = None
        self.port = 0
        self.start()

    def __call__(self, environment: dict[str, Any], respond: Any) -> Iterable[bytes]:
        if environment["REQUEST_METHOD"] == "GET":
            name = environment["PATH_INFO"].rpartition("/")[2]
            self.gets[name] += 1
            self.before_get(name)
            if name in self.spoilt:
                self.spoilt.remove(name)
                return [bytes(byte ^ 1 for byte in b"".join(self._app(environment, respond)))]
        if environment["REQUEST_METHOD"] == "PUT":
            name = environment["PATH_INFO"].rpartition("/")[2]
            self.puts[name] += 1
            if status := self.before_put(name):
                environment["wsgi.input"].read(int(environment.get("CONTENT_LENGTH") or 0))
                respond(status, [("Content-Type", "application/xml")])
                code = status.partition(" ")[2].replace(" ", "")
                return [f"<Error><Code>{code}</Code><Message>{status}</Message></Error>".encode()]
        return self._app(environment, respond)

    def start(self) -> None:
        self._server = serving.make_server("127.0.0.1", self.port, self, threaded=True, request_handler=OneRequest)
        self.port = self._server.port
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def stop(self) -> None:
        self._server.shutdown()
        self._server.server_close()


@contextmanager
def s3_server() -> Iterator[Bucket]:
    """Start a server with an empty bucket named "bucket"; the drivers of this process and its children find it."""
    with pytest.MonkeyPatch.context() as patch:
        server = Bucket()
        patch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{server.port}")
        for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
            patch.setenv(name, "testing")
        patch.setenv("AWS_DEFAULT_REGION", "us-east-1")
        patch.setenv("AWS_MAX_ATTEMPTS", "1")  # the driver's own tries would take ten seconds each
        s3fs.S3FileSystem.clear_instance_cache()
        reset = urllib.request.Request(f"http://127.0.0.1:{server.port}/moto-api/reset", method="POST")
        urllib.request.urlopen(reset).close()  # moto keeps its buckets for the whole process
        s3fs.S3FileSystem().mkdir("bucket")
        yield server
        server.stop()
        s3fs.S3FileSystem.clear_instance_cache()
