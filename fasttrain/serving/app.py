"""The service's endpoints, as a FastAPI application."""

from __future__ import annotations

import hmac
import json
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Annotated, Any

from fastapi import Depends, FastAPI, Query, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import FileResponse, Response
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer
from fastapi_offline import FastAPIOffline
from prometheus_client import CONTENT_TYPE_LATEST
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, HTTPConnection
from starlette.types import ASGIApp

from fasttrain.serving import answers
from fasttrain.serving.admission import Admission
from fasttrain.serving.body import read_uploads
from fasttrain.serving.classify import Classifier, Options
from fasttrain.serving.limits import Limits, Refused
from fasttrain.serving.log import DISCONNECTED, FIELDS, Logged
from fasttrain.serving.metrics import Metrics
from fasttrain.serving.model import Model
from fasttrain.text import nearest
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
    """Return the ASGI application that serves `model`.

    `limits`: the greatest requests to accept. `workers`: the number of decoding threads. `top_k`: the number of classes
    in an answer if the request names none. `token`: the bearer token that requests must have; None if they need none.
    """
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
        default_response_class=_Json,
    )
    app.add_exception_handler(HTTPException, _http_error)
    app.add_exception_handler(Refused, _refused)
    app.add_exception_handler(RequestValidationError, _invalid)
    app.add_exception_handler(Exception, _failed)
    checks = [] if token is None else [Depends(_Token(token))]
    _add_prediction(app, classifier, admission, limits, top_k, checks)
    _add_state(app, classifier, metrics, limits, checks)
    _add_page(app)
    return Logged(app, metrics, _PATHS)


def _add_prediction(
    app: FastAPI, classifier: Classifier, admission: Admission, limits: Limits, default_top_k: int, checks: list[Any]
) -> None:
    """Add `/predict` to `app`. `checks`: dependencies that refuse requests without the token."""
    model = classifier.model
    most = len(model.classes)

    @app.post(
        "/predict",
        dependencies=checks,
        openapi_extra=_BODY,
        responses={200: {"model": answers.Answer}, 422: {"model": answers.Answer}, **answers.PROBLEMS},
    )
    async def predict(
        request: Request,
        top_k: Annotated[int, Query(ge=1, description="the number of classes in the answer")] = min(
            default_top_k, most
        ),
        explain: Annotated[
            str | None, Query(description="add the heat map of this class; an empty text means the likeliest class")
        ] = None,
    ) -> Response:
        """Return the likeliest classes of one photograph (the body's bytes) or of several (the files of a form).

        If a photograph can't be read, the status is 422 and its entry has the reason. The others are predicted.
        """
        _check_parameters(request.query_params, ["top_k", "explain"])
        options = Options(min(top_k, most), _explained(model, explain))
        fields = request.scope[FIELDS]
        try:
            with admission.enter() as place:
                uploads = await read_uploads(request, limits, place)
                fields |= {"images": len(uploads), "bytes": sum(len(each.data) for each in uploads)}
                entries = await classifier.classify(uploads, options, place)
        except ClientDisconnect:
            return Response(status_code=DISCONNECTED)
        return _response(model, entries, fields)


def _response(model: Model, entries: list[dict[str, Any]], fields: dict[str, Any]) -> Response:
    """Return the response with `entries`, and add the reasons of refused photographs to the log `fields`.

    The status is 200 if all photographs were predicted, and 422 if some of several were refused. If there is only one
    photograph and it was refused, the status is the one in its entry.
    """
    statuses = [entry.pop("status") for entry in entries if "error" in entry]
    status = 200 if not statuses else statuses[0] if len(entries) == 1 else 422
    content: dict[str, Any] = {"model": model.name, "predictions": entries}
    if statuses:
        reasons = [entry["error"] for entry in entries if "error" in entry]
        fields["detail"] = content["detail"] = (
            reasons[0] if len(entries) == 1 else f"{len(reasons)} of {len(entries)} photographs can't be read"
        )
        fields["refused"] = reasons[:3]
    return _Json(content, status)


def _check_parameters(given: Iterable[str], known: list[str]) -> None:
    """Raise Refused (400) if a parameter isn't `known`: it may be misspelt."""
    for name in given:
        if name not in known:
            raise Refused(400, f"{name!r} is not one of the parameters {', '.join(known)}{nearest(name, known)}")


def _explained(model: Model, explain: str | None) -> int | None:
    """Return the label of the class to explain: -1 for the likeliest class, None for no heat map."""
    if explain is None:
        return None
    if isinstance(model.heat_map, str):
        raise Refused(400, f"this service has no heat maps, because {model.heat_map}")
    if explain and explain not in model.classes:
        raise Refused(400, f"explain = {explain!r} is not one of the classes; GET /model lists them")
    return model.classes.index(explain) if explain else -1


def _add_state(app: FastAPI, classifier: Classifier, metrics: Metrics, limits: Limits, checks: list[Any]) -> None:
    """Add `/model`, `/healthz` and `/metrics` to `app`. `checks`: these refuse requests without the token."""
    model = classifier.model
    about = answers.Model(
        name=model.name,
        classes=model.classes,
        multi_label=model.multi_label,
        explains=not isinstance(model.heat_map, str),
        max_bytes=limits.body,
        max_pixels=limits.pixels,
        max_images=limits.images,
    )

    @app.get("/model", dependencies=checks)
    async def describe() -> answers.Model:
        """Return the model's name and classes, and the limits of a request."""
        return about

    @app.get("/healthz", responses={503: {"model": answers.Health}})
    async def health() -> Response:
        """Return status 200 while the service can predict, and 503 otherwise."""
        healthy = classifier.healthy
        return _Json({"status": "ok" if healthy else "failed"}, 200 if healthy else 503)

    @app.get("/metrics", dependencies=checks, response_class=Response)
    async def prometheus() -> Response:
        """Return the metrics in Prometheus's text format."""
        return Response(metrics.page(), media_type=CONTENT_TYPE_LATEST)


def _add_page(app: FastAPI) -> None:
    """Add the web page and its files to `app`. Requests for them need no token."""

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


class _Json(Response):
    """A response of JSON with a newline at its end, so that a shell's prompt comes on a new line."""

    media_type = "application/json"

    def render(self, content: Any) -> bytes:
        return json.dumps(content, ensure_ascii=False, allow_nan=False).encode() + b"\n"


class _Token(HTTPBearer):
    """A dependency that raises Refused (401) for a request whose token is missing or wrong."""

    def __init__(self, token: str) -> None:
        super().__init__(auto_error=False)
        self._token = token.encode()

    async def __call__(self, request: HTTPConnection) -> HTTPAuthorizationCredentials:
        given = await super().__call__(request)
        if given is None:
            raise _unauthorized("this service needs its token; send it in the header Authorization: Bearer TOKEN")
        if not hmac.compare_digest(given.credentials.encode("latin-1"), self._token):
            raise _unauthorized("the token is wrong; send the one that the service was started with")
        return given


def _unauthorized(reason: str) -> Refused:
    return Refused(401, reason, {"WWW-Authenticate": "Bearer"})


async def _refused(request: Request, error: Exception) -> Response:
    assert isinstance(error, Refused)
    request.scope[FIELDS]["detail"] = error.reason
    return _Json({"detail": error.reason}, error.status, error.headers)


async def _invalid(request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    first = error.errors()[0]
    return await _refused(request, Refused(400, f"{first['loc'][-1]} = {first['input']!r}: {first['msg']}"))


async def _http_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    return _Json({"detail": error.detail}, error.status_code, error.headers)


async def _failed(request: Request, error: Exception) -> Response:
    return _Json({"detail": "the service failed; its log says why"}, 500)
