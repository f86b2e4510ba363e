"""A small stand-in for the Hugging Face Hub on this machine: repositories of models are made, filled and read."""

from __future__ import annotations

import base64
import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
from timm.models._hub import has_hf_hub

needs_hub = pytest.mark.skipif(not has_hf_hub(), reason="this timm is too old for this huggingface_hub")

COMMIT = "0123456789abcdef0123456789abcdef01234567"


class Hub(ThreadingHTTPServer):
    """The server: `repositories` has each one's files, and `refuses` makes every upload fail."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.repositories: dict[str, dict[str, bytes]] = {}
        self.refuses = False
        self.private: list[str] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"


@contextmanager
def running_hub(cache: Any) -> Iterator[Hub]:
    """Run a hub that this process's hub client talks to, with its cache in the folder `cache`."""
    from huggingface_hub import constants

    hub = Hub()
    thread = threading.Thread(target=hub.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(constants, "ENDPOINT", hub.url)
        template = hub.url + "/{repo_id}/resolve/{revision}/{filename}"
        patch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
        patch.setattr(constants, "HF_HUB_CACHE", str(cache))
        patch.setenv("HF_TOKEN", "hf_test")
        try:
            yield hub
        finally:
            stop(hub)
            thread.join()


def stop(hub: Hub) -> None:
    """Have the hub answer nobody any more, as where there is no network."""
    hub.shutdown()
    hub.server_close()


class _Handler(BaseHTTPRequestHandler):
    server: Hub
    protocol_version = "HTTP/1.1"

    def do_HEAD(self) -> None:
        self._file(body=False)

    def do_GET(self) -> None:
        self._file(body=True)

    def do_POST(self) -> None:
        sent = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        path = self.path.partition("?")[0]
        if self.server.refuses:
            self._answer(403, {"error": "You don't have the rights to create a model here"})
        elif path == "/api/repos/create":
            asked = json.loads(sent)
            name = f"{asked['organization']}/{asked['name']}" if asked.get("organization") else asked["name"]
            self.server.repositories.setdefault(name, {})
            if asked.get("private") or asked.get("visibility") == "private":
                self.server.private.append(name)
            self._answer(200, {"url": f"{self.server.url}/{name}", "id": name})
        elif path == "/api/validate-yaml":
            self._answer(200, {"errors": [], "warnings": []})
        elif "/preupload/" in path:
            files = [
                {"path": each["path"], "uploadMode": "regular", "shouldIgnore": False, "oid": None}
                for each in json.loads(sent)["files"]
            ]
            self._answer(200, {"files": files})
        elif "/commit/" in path:
            repository = "/".join(path.split("/")[3:5])
            for line in map(json.loads, sent.splitlines()):
                if line["key"] == "file":
                    content = base64.b64decode(line["value"]["content"])
                    self.server.repositories[repository][line["value"]["path"]] = content
            self._answer(200, {"success": True, "commitOid": COMMIT, "commitUrl": f"{self.server.url}/{repository}"})
        else:
            self._answer(404, {"error": f"unknown: {path}"})

    def _file(self, body: bool) -> None:
        parts = self.path.partition("?")[0].strip("/").split("/")
        repository = "/".join(parts[:2])
        if len(parts) < 5 or parts[2] != "resolve" or repository not in self.server.repositories:
            self._answer(404, {"error": "Repository not found"}, {"X-Error-Code": "RepoNotFound"}, body)
            return
        content = self.server.repositories[repository].get("/".join(parts[4:]))
        commit = {"X-Repo-Commit": COMMIT}
        if content is None:
            self._answer(404, {"error": "Entry not found"}, {"X-Error-Code": "EntryNotFound", **commit}, body)
            return
        self._send(200, content, {"ETag": f'"{hashlib.sha1(content).hexdigest()}"', **commit}, body)

    def _answer(self, code: int, value: Any, headers: dict[str, str] | None = None, body: bool = True) -> None:
        self._send(code, json.dumps(value).encode(), {"Content-Type": "application/json", **(headers or {})}, body)

    def _send(self, code: int, content: bytes, headers: dict[str, str], body: bool) -> None:
        self.send_response(code)
        for name, value in {**headers, "Content-Length": str(len(content))}.items():
            self.send_header(name, value)
        self.end_headers()
        if body:
            self.wfile.write(content)

    def log_message(self, format: str, *arguments: Any) -> None:
        """Print nothing."""
