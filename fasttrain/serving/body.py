"""The photographs of a request's body: one as it is, or several as a form's files."""

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
    """A file as it came. name: the client's own for it; empty where the body is the file."""

    name: str
    data: bytes


async def read_uploads(request: Request, limits: Limits, place: Place) -> list[Upload]:
    """Return the files of `request`, at least one, and count them in `place`.

    Raises Refused: 400 for a broken form, 408 for a client that takes longer than `limits.timeout`, 413 above a limit,
    429 where the queue has no room for more. Raises ClientDisconnect where the client is gone.
    """
    _check_length(request, limits, place)
    form = request.headers.get("content-type", "").lower().startswith("multipart/")
    try:
        reading = _read_form(request, limits, place) if form else _read_one(request, limits, place)
        uploads = await asyncio.wait_for(reading, limits.timeout)
    except asyncio.TimeoutError:
        close = {"Connection": "close"}
        raise Refused(408, f"the request's body took longer than {limits.timeout:g} s", close) from None
    place.grow(photographs=len(uploads) - 1)
    return uploads


def _check_length(request: Request, limits: Limits, place: Place) -> None:
    """Refuse a body that says how large it is, before any of it is read."""
    length = request.headers.get("content-length")
    if length is None:
        return
    if int(length) > limits.body:
        raise _too_large(limits)
    place.grow(size=int(length))


async def _read_one(request: Request, limits: Limits, place: Place) -> list[Upload]:
    data = b"".join([chunk async for chunk in _chunks(request, limits, place)])
    if not data:
        raise Refused(400, "the request has no body; send the bytes of a photograph, or a form with files")
    return [Upload("", data)]


async def _read_form(request: Request, limits: Limits, place: Place) -> list[Upload]:
    parser = MultiPartParser(request.headers, _chunks(request, limits, place), max_files=limits.images, max_fields=0)  # type: ignore[arg-type]
    parser.spool_max_size = limits.body + 1  # in memory, which `place` counts
    try:
        form = await parser.parse()
    except MultiPartException as error:
        raise Refused(400, f"the form can't be read: {error.message}") from None
    files = [each for _, each in form.multi_items() if isinstance(each, UploadFile)]
    try:
        if not files:
            raise Refused(400, "the form has no file; send each photograph as a file, under any name")
        return [Upload(each.filename or "", each.file.read()) for each in files]
    finally:
        for each in files:
            each.file.close()


async def _chunks(request: Request, limits: Limits, place: Place) -> AsyncIterator[bytes]:
    """Yield the body as it comes. One without a Content-Length is counted on the way."""
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
    return Refused(413, f"the request's body is larger than {limits.body / 1e6:g} MB")
