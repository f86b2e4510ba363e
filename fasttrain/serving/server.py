"""uvicorn with the service's limits, log and signals."""

from __future__ import annotations

import contextlib
import logging
import math
import os
import signal
import socket
from collections.abc import Callable, Generator
from pathlib import Path

import uvicorn

from fasttrain.errors import UserError
from fasttrain.serving.app import make_app
from fasttrain.serving.connection import connection_type
from fasttrain.serving.limits import Limits
from fasttrain.serving.log import JsonHandler
from fasttrain.serving.model import Model

TOKEN = "FASTTRAIN_SERVE_TOKEN"
_BACKLOG = 2048


def serve(
    model: Model,
    host: str = "127.0.0.1",
    port: int = 8000,
    *,
    limits: Limits,
    workers: int,
    top_k: int = 5,
    token: str | None = None,
    say: Callable[[str], None] = print,
) -> None:
    """Serve `model` until SIGTERM or Ctrl-C: no new request is taken then, those in work are answered.

    `say` gets the address once the service answers. Raises UserError where the port is taken.
    """
    listener = _listen(host, port)
    model.warm_up(1, limits.batch)
    app = make_app(model, limits, workers=workers, top_k=top_k, token=token)
    log = logging.getLogger("uvicorn.error")
    log.handlers, log.propagate = [JsonHandler()], False
    log.setLevel(logging.WARNING)
    config = uvicorn.Config(
        app,
        http=connection_type(limits.silence),
        ws="none",
        lifespan="on",
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,
        backlog=_BACKLOG,
        limit_concurrency=limits.connections,
        timeout_keep_alive=max(int(limits.silence), 1),
        timeout_graceful_shutdown=math.ceil(2 * limits.timeout),
    )
    address = _address(listener)
    with contextlib.closing(listener):
        _Server(config, lambda: say(address)).run(sockets=[listener])


class _Server(uvicorn.Server):
    """A server that ends after a signal without raising it again, so that the process's exit code is 0."""

    def __init__(self, config: uvicorn.Config, started: Callable[[], None]) -> None:
        super().__init__(config)
        self._when_started = started

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self._when_started()

    @contextlib.contextmanager
    def capture_signals(self) -> Generator[None, None, None]:
        previous = {number: signal.signal(number, self.handle_exit) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for number, handler in previous.items():
                signal.signal(number, handler)


def read_token(file: Path | None) -> str | None:
    """Return the bearer token in `file` or else in FASTTRAIN_SERVE_TOKEN, if any. Raises UserError."""
    if file is None:
        token = os.environ.get(TOKEN, "").strip()
        return token or None
    try:
        token = file.read_text("utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        said = error.strerror if isinstance(error, OSError) else "not UTF-8"
        raise UserError(f"{file}: {said}; give --token-file a file that holds the token") from None
    if not token:
        raise UserError(f"{file}: empty; give --token-file a file that holds the token")
    return token


def _listen(host: str, port: int) -> socket.socket:
    try:
        family, kind, protocol, _, where = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        listener = socket.socket(family, kind, protocol)
        try:
            if os.name == "posix":  # elsewhere it would take a port that is in use
                listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind(where)
        except BaseException:
            listener.close()
            raise
    except OSError as error:
        raise UserError(f"{host}:{port}: {(error.strerror or str(error)).lower()}; give another --port") from error
    return listener


def _address(listener: socket.socket) -> str:
    host, port = listener.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
