"""Classify uploaded files: decode them in threads, and run the model on batches of them."""

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
class Options:
    """The options of a request.

    `top_k`: the number of classes in the answer. `explain`: the label of the class whose heat map to draw, -1 for the
    likeliest class, or None for no heat map.
    """

    top_k: int
    explain: int | None = None


@dataclass(frozen=True)
class _Input:
    """The input of the model for one photograph: pixels, uint8 [size, size, 3], and `Options.explain`."""

    pixels: NDArray[np.uint8]
    explain: int | None


@dataclass(frozen=True)
class _Output:
    """The output for one photograph: probabilities, float64 [classes], and the heat map as the bytes of a PNG."""

    probabilities: NDArray[np.float64]
    heat_map: bytes | None


class Classifier:
    """Classifies uploaded files with `model`, within `limits`. `workers`: the number of decoding threads."""

    def __init__(self, model: Model, limits: Limits, metrics: Metrics, workers: int) -> None:
        self.model = model
        self._limits, self._metrics = limits, metrics
        self._pool = ThreadPoolExecutor(workers, thread_name_prefix="fasttrain-decode")
        self._batches: Batches[_Input, _Output] = Batches(self._run_model, limits.batch, limits.batch_wait)

    def start(self) -> None:
        """Start to accept files. Only the current event loop may call `classify`."""
        self._batches.start()

    async def stop(self) -> None:
        """Stop, without classifying the files that still wait."""
        await self._batches.stop()
        self._pool.shutdown(wait=False, cancel_futures=True)

    @property
    def healthy(self) -> bool:
        """Return whether the classifier accepts files."""
        return self._batches.running

    async def classify(self, uploads: Sequence[Upload], options: Options, place: Place) -> list[dict[str, Any]]:
        """Classify `uploads`, and return an entry for each, in the same order, with the fields of `answers.Prediction`.

        If a file can't be read, its entry has `error` and the HTTP `status` instead of classes. `place`: the request's
        place in the queue; threads that still decode after a timeout hold it. Raises Refused (503) if the answer takes
        longer than `limits.timeout`.
        """
        loop = asyncio.get_running_loop()
        decoding = [self._pool.submit(self._decode, each.data) for each in uploads]
        entries = (self._entry(upload, future, options) for upload, future in zip(uploads, decoding, strict=True))
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

    async def _entry(self, upload: Upload, decoding: Future[NDArray[np.uint8]], options: Options) -> dict[str, Any]:
        """Wait until `upload` is decoded and classified, and return its entry."""
        start = monotonic()
        name = {} if upload.name is None else {"image": upload.name}
        try:
            with self._batches.expect():
                pixels = await asyncio.wrap_future(decoding)
        except (Refused, Unreadable, BrokenPhoto) as error:
            self._metrics.photographs.labels("refused").inc()
            status, reason = (error.status, error.reason) if isinstance(error, Refused) else (422, str(error))
            return {**name, "error": reason, "status": status}
        decoded = monotonic()
        output = await self._batches.run(_Input(pixels, options.explain))
        self._metrics.stages.labels("decode").observe(decoded - start)
        self._metrics.stages.labels("model").observe(monotonic() - decoded)
        self._metrics.photographs.labels("predicted").inc()
        return name | self._answer(output, options)

    def _decode(self, data: bytes) -> NDArray[np.uint8]:
        """Decode the bytes of a file into the model's input. Raises Refused (413), Unreadable or BrokenPhoto."""
        width, height = picture_size(data)
        if width * height > self._limits.pixels:
            most = f"{self._limits.pixels / 1e6:g} megapixels"
            raise Refused(413, f"{width} x {height} px is more than {most}; send a smaller picture")
        return self.model.predictor.read(data)

    def _run_model(self, inputs: Sequence[_Input]) -> list[_Output]:
        self._metrics.batches.observe(len(inputs))
        rows = self.model.predictor.probabilities(np.stack([each.pixels for each in inputs]))
        return [_Output(row, self._heat_map(each, row)) for each, row in zip(inputs, rows, strict=True)]

    def _heat_map(self, given: _Input, row: NDArray[np.float64]) -> bytes | None:
        if given.explain is None or isinstance(self.model.heat_map, str):
            return None
        return self.model.heat_map(given.pixels, int(row.argmax()) if given.explain < 0 else given.explain)

    def _answer(self, output: _Output, options: Options) -> dict[str, Any]:
        answer = self.model.predictor.prediction(output.probabilities, top_k=options.top_k).to_dict()
        for each in answer.get("top", answer.get("classes", [])):
            each["probability"] = round(each["probability"], 6)
        if output.heat_map is not None:
            answer["heat_map"] = "data:image/png;base64," + base64.b64encode(output.heat_map).decode()
        return answer
