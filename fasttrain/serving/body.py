"""Read the photographs in a request's body, which is a single file or a form with several files."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass

from starlette.datastructures import UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser
from starlette.requests import Request

from fasttrain.serving.admission import Place
from fasttrain.serving.limits import Limits, Refused


@dataclass(frozen=True)
class Upload:
    """An uploaded file: its bytes `data`, and its `name` in the form, which is None if the body is a single file."""

    name: str | None
    data: bytes


async def read_uploads(request: Request, limits: Limits, place: Place) -> list[Upload]:
    """Return the files in the body of `request`, at least one. Add them and their bytes to the request's `place`.

    Raises Refused with status 400 for an empty body or an invalid form, 408 if the body takes longer than
    `limits.timeout`, 413 if it exceeds a limit, and 429 if the queue is full. Raises ClientDisconnect if the client
    closes the connection.
    """
    _check_length(request, limits, place)
    form = request.headers.get("content-type", "").lower().startswith("multipart/")
    try:
        reading = _read_form(request, limits, place) if form else _read_one(request, limits, place)
        uploads = await asyncio.wait_for(reading, limits.timeout)
    except asyncio.TimeoutError:
        close = {"Connection": "close"}
        raise Refused(408, f"the request's body took longer than {limits.timeout:g} s; send it faster", close) from None
    place.grow(photographs=len(uploads) - 1)
    return uploads


def _check_length(request: Request, limits: Limits, place: Place) -> None:
    """Add the request's Content-Length, if given, to `place`. Raises Refused (413 or 429) if it exceeds a limit."""
    length = request.headers.get("content-length")
    if length is None:
        return
    if int(length) > limits.body:
        raise _too_large(limits)
    place.grow(size=int(length))


async def _read_one(request: Request, limits: Limits, place: Place) -> list[Upload]:
    """Return the body as a single file. Raises Refused (400) if it is empty."""
    data = b"".join([chunk async for chunk in _chunks(request, limits, place)])
    if not data:
        raise Refused(400, "the request has no body; send the bytes of a photograph, or a form with files")
    return [Upload(None, data)]


async def _read_form(request: Request, limits: Limits, place: Place) -> list[Upload]:
    """Return the files of a multipart form. Raises Refused (400) if it is broken, has no files or has text."""
    parser = MultiPartParser(
        request.headers,
        _chunks(request, limits, place),  # type: ignore[arg-type]
        max_files=limits.images,
        max_fields=limits.images,
    )
    parser.max_part_size = limits.body + 1  # the whole body is limited; Starlette before 0.44 has no such limit
    parser.spool_max_size = limits.body + 1  # keep files in memory: `place` counts their bytes
    try:
        form = await parser.parse()
    except MultiPartException as error:
        reason = error.message.rstrip(".")
        cure = f"; send up to {limits.images} files" if reason.startswith("Too many") else ""
        raise Refused(400, f"the form can't be read: {reason}{cure}") from None
    files = [each for _, each in form.multi_items() if isinstance(each, UploadFile)]
    try:
        for name, each in form.multi_items():
            if not isinstance(each, UploadFile):
                raise Refused(400, f"the form's field {name!r} is text; send each photograph as a file")
        if not files:
            raise Refused(400, "the form has no file; send each photograph as a file, under any name")
        return [Upload(each.filename or "", each.file.read()) for each in files]
    finally:
        for each in files:
            each.file.close()


async def _chunks(request: Request, limits: Limits, place: Place) -> AsyncIterator[bytes]:
    """Yield the body in chunks as they arrive, and count their bytes if there is no Content-Length."""
    unknown = "content-length" not in request.headers
    size = 0
    async for chunk in request.stream():
        size += len(chunk)
        if size > limits.body:
            raise _too_large(limits)
        if unknown:
            place.grow(size=len(chunk))
        yield chunk


def _too_large(limits: Limits) -> Refused:
    return Refused(413, f"the request's body is larger than {limits.body / 1e6:g} MB; send less")
