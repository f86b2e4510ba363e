"""The service's addresses, as a FastAPI application."""

from __future__ import annotations

import hmac
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Annotated, Any

from fastapi import Depends, FastAPI, Query, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import FileResponse, JSONResponse, Response
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer
from fastapi_offline import FastAPIOffline
from prometheus_client import CONTENT_TYPE_LATEST
from starlette.requests import ClientDisconnect, HTTPConnection
from starlette.types import ASGIApp

from fasttrain.serving import answers
from fasttrain.serving.admission import Admission
from fasttrain.serving.body import read_uploads
from fasttrain.serving.classify import Classifier, Wanted
from fasttrain.serving.limits import Limits, Refused
from fasttrain.serving.log import FIELDS, GONE, Logged
from fasttrain.serving.metrics import Metrics
from fasttrain.serving.model import Model
from fasttrain.version import __version__

_PAGE = Path(__file__).with_name("page")
_PATHS = frozenset({"/", "/predict", "/model", "/healthz", "/metrics", "/docs", "/openapi.json"})
_PAGE_HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; "
    "img-src 'self' blob: data:; media-src blob:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-cache",
}
_BODY = {
    "requestBody": {
        "required": True,
        "content": {
            "image/*": {"schema": {"type": "string", "format": "binary"}},
            "multipart/form-data": {
                "schema": {
                    "type": "object",
                    "properties": {"images": {"type": "array", "items": {"type": "string", "format": "binary"}}},
                }
            },
        },
    }
}


def make_app(model: Model, limits: Limits, *, workers: int, top_k: int = 5, token: str | None = None) -> ASGIApp:
    """Return the service of `model`; `workers` threads decode. With a `token`, requests must bear it."""
    admission = Admission(limits)
    metrics = Metrics(model.name, lambda: admission.photographs, limits.queue)
    classifier = Classifier(model, limits, metrics, workers)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        classifier.start()
        yield
        await classifier.stop()

    app = FastAPIOffline(
        redoc_url=None,
        title="fasttrain serve",
        version=__version__,
        description=f"{model.name}, {len(model.classes)} classes",
        lifespan=lifespan,
    )
    app.add_exception_handler(Refused, _refused)
    app.add_exception_handler(RequestValidationError, _invalid)
    app.add_exception_handler(Exception, _failed)
    allowed = [] if token is None else [Depends(_Token(token))]
    _add_prediction(app, classifier, admission, limits, top_k, allowed)
    _add_state(app, classifier, metrics, limits, allowed)
    _add_page(app)
    return Logged(app, metrics, _PATHS)


def _add_prediction(
    app: FastAPI, classifier: Classifier, admission: Admission, limits: Limits, default_top_k: int, allowed: list[Any]
) -> None:
    model = classifier.model
    most = len(model.classes)

    @app.post(
        "/predict",
        dependencies=allowed,
        openapi_extra=_BODY,
        responses={200: {"model": answers.Answer}, 422: {"model": answers.Answer}, **answers.PROBLEMS},
    )
    async def predict(
        request: Request,
        top_k: Annotated[int, Query(ge=1, description="classes named")] = min(default_top_k, most),
        explain: Annotated[
            str | None, Query(description="a class, or an empty text for the likeliest one: adds its heat map")
        ] = None,
    ) -> Response:
        """Names the likeliest classes of one photograph (the body's bytes) or of several (a form's files).

        With a photograph that can't be read the status is 422, with the reason in its entry; the rest is predicted.
        """
        wanted = Wanted(min(top_k, most), _explained(model, explain))
        fields = request.scope[FIELDS]
        try:
            with admission.enter() as place:
                uploads = await read_uploads(request, limits, place)
                fields |= {"images": len(uploads), "bytes": sum(len(each.data) for each in uploads)}
                entries = await classifier.classify(uploads, wanted, place)
        except ClientDisconnect:
            return Response(status_code=GONE)
        return _answered(model, entries, fields)


def _answered(model: Model, entries: list[dict[str, Any]], fields: dict[str, Any]) -> Response:
    """Return 200, or where a photograph was refused its status, 422 among several."""
    statuses = [entry.pop("status") for entry in entries if "error" in entry]
    status = 200 if not statuses else statuses[0] if len(entries) == 1 else 422
    content: dict[str, Any] = {"model": model.name, "predictions": entries}
    if statuses:
        reasons = [entry["error"] for entry in entries if "error" in entry]
        fields["detail"] = content["detail"] = (
            reasons[0] if len(entries) == 1 else f"{len(reasons)} of {len(entries)} photographs can't be read"
        )
        fields["refused"] = reasons[:3]
    body = json.dumps(content, ensure_ascii=False, allow_nan=False).encode()
    return Response(body, status, media_type="application/json")


def _explained(model: Model, explain: str | None) -> int | None:
    if explain is None:
        return None
    if model.heat_map is None:
        raise Refused(400, "this service has no heat maps; leave `explain` out")
    if explain and explain not in model.classes:
        raise Refused(400, f"explain = {explain!r} is not one of the classes")
    return model.classes.index(explain) if explain else -1


def _add_state(app: FastAPI, classifier: Classifier, metrics: Metrics, limits: Limits, allowed: list[Any]) -> None:
    model = classifier.model
    about = answers.Model(
        name=model.name,
        classes=model.classes,
        multi_label=model.multi_label,
        explains=model.heat_map is not None,
        max_bytes=limits.body,
        max_pixels=limits.pixels,
        max_images=limits.images,
    )

    @app.get("/model", dependencies=allowed)
    async def describe() -> answers.Model:
        """Describes the model and the limits of a request."""
        return about

    @app.get("/healthz", responses={503: {"model": answers.Health}})
    async def health() -> Response:
        """Answers 200 while the service can predict."""
        well = classifier.healthy
        return JSONResponse({"status": "ok" if well else "failed"}, 200 if well else 503)

    @app.get("/metrics", dependencies=allowed, response_class=Response)
    async def prometheus() -> Response:
        """Gives metrics in the text format of Prometheus."""
        return Response(metrics.page(), media_type=CONTENT_TYPE_LATEST)


def _add_page(app: FastAPI) -> None:
    def add(path: str, file: str) -> None:
        async def send() -> FileResponse:
            return FileResponse(_PAGE / file, headers=_PAGE_HEADERS)

        app.add_api_route(path, send, include_in_schema=False)

    for path, file in {
        "/": "index.html",
        "/page.css": "page.css",
        "/page.js": "page.js",
        "/icon.svg": "icon.svg",
    }.items():
        add(path, file)


class _Token(HTTPBearer):
    """Raises Refused (401) for a request without the token."""

    def __init__(self, token: str) -> None:
        super().__init__(auto_error=False)
        self._token = token.encode()

    async def __call__(self, request: HTTPConnection) -> HTTPAuthorizationCredentials:
        given = await super().__call__(request)
        if given is None or not hmac.compare_digest(given.credentials.encode("latin-1"), self._token):
            raise Refused(401, "give the service's token: Authorization: Bearer TOKEN", {"WWW-Authenticate": "Bearer"})
        return given


async def _refused(request: Request, error: Exception) -> Response:
    assert isinstance(error, Refused)
    request.scope[FIELDS]["detail"] = error.reason
    return JSONResponse({"detail": error.reason}, error.status, error.headers)


async def _invalid(request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    first = error.errors()[0]
    return await _refused(request, Refused(400, f"{first['loc'][-1]} = {first['input']!r}: {first['msg']}"))


async def _failed(request: Request, error: Exception) -> Response:
    return JSONResponse({"detail": "the service failed; its log says why"}, 500)
