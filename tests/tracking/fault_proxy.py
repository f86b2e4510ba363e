"""A proxy in front of an MLflow server that treats each request as it is told."""

from __future__ import annotations

import contextlib
import http.client
import json
import socket
import struct
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

HTML = b"<!doctype html><title>Sign in</title><p>Welcome to the hotel's network."
ANSWERS: dict[str, tuple[int, dict[str, str], bytes]] = {
    "500": (500, {}, json.dumps({"error_code": "INTERNAL_ERROR", "message": "the disk is full"}).encode()),
    "429": (429, {"Retry-After": "3600"}, b"too many requests"),
    "401": (401, {"WWW-Authenticate": "Basic"}, b"who are you?"),
    "HTML": (200, {"Content-Type": "text/html"}, HTML),
    "502 in HTML": (502, {"Content-Type": "text/html"}, HTML),
    "nothing with 200": (200, {}, b""),
    "{} with 200": (200, {"Content-Type": "application/json"}, b"{}"),
    "another's JSON": (200, {"Content-Type": "application/json"}, b'{"status": "ok", "run": {}, "runs": 3}'),
}
FAULTS = (
    *ANSWERS,
    "refused",  # reset as soon as the request is there
    "cut before",  # read, not forwarded, no answer
    "cut after",  # forwarded, the answer is lost
    "half an answer",
    "garbage",  # bytes that are no HTTP
    "late",  # forwarded when the client has given up
    "never answered",
)
Policy = Callable[[str, str], str | None]
"""A function from a request's method and path to one of FAULTS, or None to let the request pass."""


class Proxy:
    """Listens on `uri`. `policy` is asked about each request, `seen` counts them by endpoint, `done` the faults;
    `release` lets those go on that are late or never answered."""

    def __init__(self, port: int) -> None:
        self.upstream = port
        self.policy: Policy = lambda method, path: None
        self.seen: Counter[str] = Counter()
        self.done: Counter[str] = Counter()
        self.release = threading.Event()
        self.patience = 10.0  # seconds that a late request is held back
        self._lock = threading.Lock()
        proxy = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def handle_one_request(self) -> None:
                with contextlib.suppress(OSError):
                    super().handle_one_request()
                    return
                self.close_connection = True

            def log_message(self, *_: object) -> None:
                pass

            def do_GET(self) -> None:
                proxy._treat(self)

            do_POST = do_PUT = do_PATCH = do_DELETE = do_GET

        self._listening = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._listening.daemon_threads = True
        self._listening.block_on_close = False
        self.uri = f"http://127.0.0.1:{self._listening.server_address[1]}"

    @contextmanager
    def serving(self) -> Iterator[Proxy]:
        thread = threading.Thread(target=self._listening.serve_forever, args=(0.05,), daemon=True)
        thread.start()
        try:
            yield self
        finally:
            self.release.set()
            self._listening.shutdown()
            self._listening.server_close()

    def _treat(self, request: BaseHTTPRequestHandler) -> None:
        body = request.rfile.read(int(request.headers.get("Content-Length") or 0))
        path = request.path.partition("?")[0]
        with self._lock:
            self.seen[path.rpartition("/2.0/")[2]] += 1
            fault = self.policy(request.command, path)
            if fault:
                self.done[fault] += 1
        request.close_connection = True
        if fault in ANSWERS:
            self._answer(request, *ANSWERS[fault])
        elif fault == "garbage":
            request.wfile.write(b"\x16\x03\x01\x02 no HTTP at all\r\n\r\n")
        elif fault == "refused":
            request.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            request.connection.close()
        elif fault == "never answered":
            self.release.wait()
        elif fault != "cut before":
            if fault == "late":
                self.release.wait(self.patience)
            self._forward(request, body, fault)

    def _forward(self, request: BaseHTTPRequestHandler, body: bytes, fault: str | None) -> None:
        upstream = http.client.HTTPConnection("127.0.0.1", self.upstream, timeout=120)
        try:
            headers = {name: value for name, value in request.headers.items() if name.lower() != "connection"}
            upstream.request(request.command, request.path, body, headers)
            answer = upstream.getresponse()
            content = answer.read()
        except (OSError, http.client.HTTPException):  # the server is dead
            return
        finally:
            upstream.close()
        if fault == "cut after":
            return
        kept = {name: value for name, value in answer.getheaders() if name.lower() == "content-type"}
        sent = content[: len(content) // 2] if fault == "half an answer" else content
        self._answer(request, answer.status, kept, sent, len(content))

    def _answer(
        self, request: BaseHTTPRequestHandler, status: int, headers: dict[str, str], body: bytes, length: int = -1
    ) -> None:
        request.send_response(status)
        for name, value in headers.items():
            request.send_header(name, value)
        request.send_header("Content-Length", str(len(body) if length < 0 else length))
        request.send_header("Connection", "close")
        request.end_headers()
        request.wfile.write(body)
