"""The limits of a service, and the exception for a request that is refused."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True)
class Limits:
    """The limits of a service.

    `queue`: the photographs that are processed at the same time. `body`: the bytes of one request. `bodies`: the bytes
    of all requests that are processed at the same time. `images`: the photographs in one request. `pixels`: the pixels
    of one photograph. `batch`: the photographs in one batch of the model. `batch_wait`: the time to wait for a full
    batch, in seconds. `timeout`: the time to receive a body, and the time to answer it, each in seconds. `connections`:
    the connections that are open at the same time.
    """

    queue: int = 256
    body: int = 20_000_000
    bodies: int = 512_000_000
    images: int = 64
    pixels: int = 50_000_000
    batch: int = 64
    batch_wait: float = 0.005
    timeout: float = 30.0
    connections: int = 512

    @property
    def silence(self) -> float:
        """How long a client may leave its connection idle before the server closes it, in seconds."""
        return min(self.timeout, 10.0)


@dataclass
class Refused(Exception):
    """Raised to answer a request with an HTTP error.

    `status`: the HTTP status. `reason`: one line for the client. `headers`: further headers of the answer.
    """

    status: int
    reason: str
    headers: dict[str, str] = field(default_factory=dict)
