"""Files to classes: limits are checked, decoding threads and the model's batches do the rest."""

from __future__ import annotations

import asyncio
import base64
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from time import monotonic
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fasttrain.data.photograph import Unreadable
from fasttrain.photos.pictures import BrokenPhoto, picture_size
from fasttrain.serving.admission import Place
from fasttrain.serving.batches import Batches
from fasttrain.serving.body import Upload
from fasttrain.serving.limits import Limits, Refused
from fasttrain.serving.metrics import Metrics
from fasttrain.serving.model import Model


@dataclass(frozen=True)
class Wanted:
    """The options of a request. explain: the index of the class whose heat map to draw, -1 for the likeliest class."""

    top_k: int
    explain: int | None = None


@dataclass(frozen=True)
class _Job:
    pixels: NDArray[np.uint8]
    explain: int | None


@dataclass(frozen=True)
class _Seen:
    probabilities: NDArray[np.float64]
    heat_map: bytes | None


class Classifier:
    """A model, its decoding threads and its batches."""

    def __init__(self, model: Model, limits: Limits, metrics: Metrics, workers: int) -> None:
        self.model = model
        self._limits, self._metrics = limits, metrics
        self._pool = ThreadPoolExecutor(workers, thread_name_prefix="fasttrain-decode")
        self._batches: Batches[_Job, _Seen] = Batches(self._see, limits.batch, limits.batch_wait)

    def start(self) -> None:
        self._batches.start()

    async def stop(self) -> None:
        await self._batches.stop()
        self._pool.shutdown(wait=False, cancel_futures=True)

    @property
    def healthy(self) -> bool:
        return self._batches.running

    async def classify(self, uploads: Sequence[Upload], wanted: Wanted, place: Place) -> list[dict[str, Any]]:
        """Return an entry for each of `uploads`: its classes, or why it can't be read.

        Raises Refused (503) where that takes longer than `limits.timeout`.
        """
        loop = asyncio.get_running_loop()
        decoding = [self._pool.submit(self._decode, each.data) for each in uploads]
        entries = (self._entry(upload, future, wanted) for upload, future in zip(uploads, decoding, strict=True))
        try:
            return list(await asyncio.wait_for(asyncio.gather(*entries), self._limits.timeout))
        except asyncio.TimeoutError:
            raise Refused(
                503, f"no answer within {self._limits.timeout:g} s; try again", {"Retry-After": "5"}
            ) from None
        finally:
            for future in decoding:
                if not future.done() and not future.cancel():
                    place.hold()  # a thread can't be stopped
                    future.add_done_callback(lambda _: loop.call_soon_threadsafe(place.release))

    async def _entry(self, upload: Upload, decoding: Future[NDArray[np.uint8]], wanted: Wanted) -> dict[str, Any]:
        start = monotonic()
        name = {"image": upload.name}
        try:
            with self._batches.expect():
                pixels = await asyncio.wrap_future(decoding)
        except (Refused, Unreadable, BrokenPhoto) as error:
            self._metrics.photographs.labels("refused").inc()
            status, reason = (error.status, error.reason) if isinstance(error, Refused) else (422, str(error))
            return {**name, "error": reason, "status": status}
        decoded = monotonic()
        seen = await self._batches.run(_Job(pixels, wanted.explain))
        self._metrics.stages.labels("decode").observe(decoded - start)
        self._metrics.stages.labels("model").observe(monotonic() - decoded)
        self._metrics.photographs.labels("predicted").inc()
        return name | self._answer(seen, wanted)

    def _decode(self, data: bytes) -> NDArray[np.uint8]:
        width, height = picture_size(data)
        if width * height > self._limits.pixels:
            most = f"{self._limits.pixels / 1e6:g} megapixels"
            raise Refused(413, f"{width} x {height} px is more than {most}; send a smaller picture")
        return self.model.predictor.read(data)

    def _see(self, jobs: Sequence[_Job]) -> list[_Seen]:
        self._metrics.batches.observe(len(jobs))
        rows = self.model.predictor.probabilities(np.stack([job.pixels for job in jobs]))
        return [_Seen(row, self._heat_map(job, row)) for job, row in zip(jobs, rows, strict=True)]

    def _heat_map(self, job: _Job, row: NDArray[np.float64]) -> bytes | None:
        if job.explain is None or self.model.heat_map is None:
            return None
        return self.model.heat_map(job.pixels, int(row.argmax()) if job.explain < 0 else job.explain)

    def _answer(self, seen: _Seen, wanted: Wanted) -> dict[str, Any]:
        answer = self.model.predictor.prediction(seen.probabilities, top_k=wanted.top_k).to_dict()
        if seen.heat_map is not None:
            answer["heat_map"] = "data:image/png;base64," + base64.b64encode(seen.heat_map).decode()
        return answer
