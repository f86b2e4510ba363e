"""Broken, huge, slow and cut-off requests leave nothing behind."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.service import Service, serving
from tests.support.soak import soak

pytest.importorskip("fastapi_offline", reason="without the extra `serve`")
BODY = 300_000
RIGHT = {
    *("good 200", "form 422", "broken 422", "empty 400", "bomb 413", "huge 413", "huge chunked 413", "slow 408"),
    *("cut off closed", "cut off head closed", "gone closed"),
    *("huge closed", "huge chunked closed"),  # the service may be done with it before the client is
    *("good 503", "form 503", "broken 503"),  # a busy machine may not answer in time
}


@pytest.mark.slow
def test_nothing_is_left_behind(model_folder: Path, photographs: Path, tmp_path: Path) -> None:
    some = [path.read_bytes() for path in sorted(photographs.glob("*/000[0-3].jpg"))]
    with serving(model_folder, tmp_path, "--max-body", str(BODY / 1e6), "--timeout", "2") as service:
        before = held(service)
        found = soak(service, some, requests=100, body=BODY)
        assert set(found) <= RIGHT, found
        after = held(service)
        assert after["files"] <= before["files"] + 2 and after["threads"] <= before["threads"] + 4
        soak(service, some, requests=100, body=BODY, seed=1)
        assert held(service)["memory"] - after["memory"] < 40e6
        assert service.predict(some[0])[0] == 200
        assert not [line for line in service.log() if line.get("status") == 500 or "trace" in line]


def held(service: Service) -> dict[str, float]:
    """Return what the idle process holds: bytes of memory, open files, threads."""
    service.wait_for_queue(0)
    process = Path("/proc", str(service.process.pid))
    return {
        "memory": service.metric("process_resident_memory_bytes"),
        "files": len(list((process / "fd").iterdir())),
        "threads": len(list((process / "task").iterdir())),
    }
