"""Clients of a service that do all that clients do wrong, several at a time, mixed with good ones."""

from __future__ import annotations

import contextlib
import random
import socket
import struct
import zlib
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial

from tests.support.service import Service, answer_of, head

KINDS = ("good", "form", "broken", "empty", "bomb", "huge", "huge chunked", "cut off", "cut off head", "gone", "slow")
_AT_A_TIME = 8


def bomb(side: int = 10_000) -> bytes:
    """Return a PNG that has `side` x `side` pixels by its header."""
    header = struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
    chunks = {b"IHDR": header, b"IDAT": zlib.compress(bytes(100_000)), b"IEND": b""}
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        for kind, data in chunks.items()
    )


def soak(service: Service, photographs: Sequence[bytes], requests: int, body: int, seed: int = 0) -> Counter[str]:
    """Send so many requests, of random kinds, to a service that takes `body` bytes; return "KIND STATUS" counted.

    The status is "closed" where the connection ended without an answer, as it may.
    """
    generator = random.Random(seed)
    with ThreadPoolExecutor(_AT_A_TIME) as pool:
        sent = [
            pool.submit(_send, service, generator.choice(KINDS), generator.choice(photographs), body)
            for _ in range(requests)
        ]
        return Counter(each.result() for each in sent)


def _send(service: Service, kind: str, photograph: bytes, body: int) -> str:
    half = photograph[: len(photograph) // 2]
    as_usual: dict[str, Callable[[], tuple[int, object, object]]] = {
        "good": partial(service.predict, photograph),
        "form": partial(service.predict, photograph, b"no photograph", photograph),
        "broken": partial(service.predict, half),
        "empty": partial(service.predict, b""),
        "bomb": partial(service.predict, bomb()),
    }
    if kind in as_usual:
        return f"{kind} {as_usual[kind]()[0]}"
    raw = {
        "huge": head(body + 1) + bytes(body + 1),
        "huge chunked": head(None) + b"%x\r\n" % (2 * body) + bytes(2 * body),
        "cut off": head(len(photograph)) + half,
        "cut off head": head(len(photograph))[:30],
        "gone": head(len(photograph)) + photograph,
        "slow": head(len(photograph)) + half,
    }[kind]
    status = "closed"
    with contextlib.suppress(OSError):  # the service may close while the client still sends
        connection = service.begin(raw)
        if kind in ("cut off", "cut off head", "gone"):
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))  # RST, like a crash
            connection.close()
            return f"{kind} closed"
        answer = answer_of(connection)
        status = answer.split()[1].decode() if answer else status
    return f"{kind} {status}"
