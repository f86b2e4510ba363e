"""The limits of a service, and how a request above a limit is refused."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True)
class Limits:
    """Limits of a service.

    queue: photographs in work at the same time. body: bytes of a request. bodies: bytes of all requests in work.
    images: photographs of a request. pixels: of a photograph. batch: photographs that the model sees at once, for which
    it waits `batch_wait` seconds. timeout: seconds for a body to come, and again for its answer. connections: open at
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
        """Seconds that a connection may stay silent where it is the client's turn."""
        return min(self.timeout, 10.0)


@dataclass
class Refused(Exception):
    """A request that gets an HTTP error: its status, the reason in one line, and headers."""

    status: int
    reason: str
    headers: dict[str, str] = field(default_factory=dict)
