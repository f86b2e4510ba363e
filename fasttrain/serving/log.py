"""Log each request as one line of JSON on the standard output."""

from __future__ import annotations

import json
import logging
import sys
import time
import traceback
from datetime import datetime, timezone
from typing import Any

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from fasttrain.errors import one_line
from fasttrain.serving.metrics import Metrics

FIELDS = "fasttrain.log"
"""The key in a request's ASGI scope that holds a dictionary with further fields of its log line."""
DISCONNECTED = 499
"""The logged status of a request whose client closed the connection, as in nginx."""


def write_line(**fields: Any) -> None:
    """Write `fields` and the current time as one line of JSON."""
    now = datetime.now(timezone.utc).isoformat(timespec="milliseconds")
    sys.stdout.write(json.dumps({"time": now, **fields}) + "\n")
    sys.stdout.flush()


class Logged:
    """An ASGI application that runs `app`, logs each HTTP request as a line, and counts it in `metrics`.

    An exception of `app` goes into the request's line, with its trace, and isn't raised again. `paths`: the paths that
    are counted separately. All others are counted as "other".
    """

    def __init__(self, app: ASGIApp, metrics: Metrics, paths: frozenset[str]) -> None:
        self._app, self._metrics, self._paths = app, metrics, paths

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        start = time.monotonic()
        status = 0
        fields: dict[str, Any] = {}
        scope[FIELDS] = fields

        async def watched(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            await self._app(scope, receive, watched)
        except Exception as error:
            fields |= {"error": one_line(error), "trace": traceback.format_exc()}
        finally:
            seconds = time.monotonic() - start
            path = scope["path"] if scope["path"] in self._paths else "other"
            self._metrics.requests.labels(path, str(status or DISCONNECTED)).inc()
            self._metrics.seconds.labels(path).observe(seconds)
            client = scope["client"][0] if scope.get("client") else ""
            about = {"method": scope["method"], "path": scope["path"], "status": status or DISCONNECTED}
            write_line(client=client, **about, ms=round(1000 * seconds, 1), **fields)


class JsonHandler(logging.Handler):
    """A handler for Python's logging that writes each record, such as a warning of uvicorn, with `write_line`."""

    def emit(self, record: logging.LogRecord) -> None:
        trace = {"trace": "".join(traceback.format_exception(*record.exc_info))} if record.exc_info else {}
        write_line(level=record.levelname.lower(), message=record.getMessage(), **trace)
