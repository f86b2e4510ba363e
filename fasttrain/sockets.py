"""Sockets on which commands serve their pages."""

from __future__ import annotations

import errno
import socket

from fasttrain.errors import UserError
from fasttrain.machine import WINDOWS


def bound_socket(host: str, port: int) -> socket.socket:
    """Return a socket that is bound to the address. Raises UserError if it can't be, such as for a port in use."""
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        listener = socket.socket(family, kind, protocol)
        try:
            if not WINDOWS:  # there the option would take a port that is in use
                listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind(address)
        except BaseException:
            listener.close()
            raise
    except OSError as error:
        of_port = error.errno in (errno.EADDRINUSE, errno.EACCES)  # ports below 1024 may need root
        cure = f"give another {'--port' if of_port else '--host'}"
        raise UserError(f"{host}:{port}: {(error.strerror or str(error)).lower()}; {cure}") from error
    return listener
