"""Run the service with uvicorn, with its own limits, log and signal handlers."""

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
from fasttrain.sockets import bound_socket

TOKEN = "FASTTRAIN_SERVE_TOKEN"  # an environment variable
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
    """Serve `model` at http://`host`:`port` until SIGTERM or Ctrl-C. Requests in progress are then still answered.

    `limits`: the greatest requests to accept. `workers`: the number of decoding threads. `top_k`: the number of classes
    in an answer if the request names none. `token`: the bearer token that requests must have; None if they need none.
    `say`: called with the address as soon as the service answers. Raises UserError if the service can't listen on this
    address, for instance because the port is in use.
    """
    listener = bound_socket(host, port)
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
    """A server that handles signals without raising them again at its end, so that the process exits with 0.

    `started`: called when the server accepts connections.
    """

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
    """Return the bearer token in `file`. If `file` is None, return the environment variable FASTTRAIN_SERVE_TOKEN.

    Return None if that variable is unset or empty. Raises UserError if the file can't be read or is empty.
    """
    if file is None:
        token = os.environ.get(TOKEN, "").strip()
        return token or None
    try:
        token = file.read_text("utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not UTF-8"
        raise UserError(f"{file}: {reason}; give a file with the token as --token-file") from None
    if not token:
        raise UserError(f"{file}: the file is empty; give a file with the token as --token-file")
    return token


def _address(listener: socket.socket) -> str:
    host, port = listener.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
