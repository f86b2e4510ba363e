"""A client of `fasttrain serve`, in its own process: `python serve_client.py ADDRESS CLIENTS REQUESTS RATE < PATHS`.

CLIENTS connections that are kept open send REQUESTS photographs to a loopback address, RATE of them a second, or with
RATE 0 each the next one as soon as it has an answer. Prints JSON: seconds, and the latencies of all answers in seconds;
at a RATE they count from the time at which a request was due, also where no connection was free then.
"""

from __future__ import annotations

import asyncio
import ipaddress
import itertools
import json
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

_IDLE = 3.0  # seconds


async def client(host: str, port: int, photographs: list[bytes], due: Iterator[tuple[int, float]]) -> list[float]:
    reader, writer = await asyncio.open_connection(host, port)
    latencies = []
    for number, moment in due:
        if (early := moment - time.perf_counter()) > 0:
            await asyncio.sleep(early)
            if early > _IDLE:  # the service closes connections that are silent
                writer.close()
                reader, writer = await asyncio.open_connection(host, port)
        start = moment or time.perf_counter()
        data = photographs[number % len(photographs)]
        head = f"POST /predict HTTP/1.1\r\nHost: {host}\r\nContent-Length: {len(data)}\r\n\r\n"
        writer.write(head.encode() + data)
        answer = await reader.readuntil(b"\r\n\r\n")
        if not answer.startswith(b"HTTP/1.1 200"):
            raise SystemExit(answer.decode())
        length = next(line for line in answer.lower().splitlines() if line.startswith(b"content-length"))
        await reader.readexactly(int(length.split(b":")[1]))
        latencies.append(time.perf_counter() - start)
    writer.close()
    return latencies


async def main(address: str, clients: int, requests: int, rate: float) -> None:
    parts = urlsplit(address)
    assert parts.hostname and parts.port and ipaddress.ip_address(parts.hostname).is_loopback
    photographs = [Path(line.rstrip("\n")).read_bytes() for line in sys.stdin]
    begun = time.perf_counter()
    moments = (begun + number / rate for number in range(requests)) if rate else itertools.repeat(0.0, requests)
    due = enumerate(moments)  # shared: each client takes the next one
    found = await asyncio.gather(*(client(parts.hostname, parts.port, photographs, due) for _ in range(clients)))
    seconds = time.perf_counter() - begun
    print(json.dumps({"seconds": seconds, "latencies": [each for latencies in found for each in latencies]}))


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), float(sys.argv[4])))
