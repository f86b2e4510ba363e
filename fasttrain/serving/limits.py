"""The limits of a service, and the exception for a request that is refused."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True)
class Limits:
    """The limits of a service. Each is the greatest accepted value.

    `queue`: photographs that are processed at the same time. `body`: bytes of one request. `bodies`: bytes of all
    requests that are processed at the same time. `images`: photographs in one request. `pixels`: width times height of
    one photograph. `batch`: photographs in one batch of the model. `batch_wait`: seconds that a batch waits to become
    full. `timeout`: seconds to receive a body, and as many again to answer. `connections`: connections that are open at
    the same time.
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
        """Return how many seconds a client may leave its connection idle before the server closes it."""
        return min(self.timeout, 10.0)


@dataclass
class Refused(Exception):
    """Raised to answer a request with an HTTP error.

    `status`: the HTTP status. `reason`: one line for the client. `headers`: further headers of the answer.
    """

    status: int
    reason: str
    headers: dict[str, str] = field(default_factory=dict)
