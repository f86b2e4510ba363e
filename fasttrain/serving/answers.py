"""Schemas of the service's answers, for its OpenAPI page."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, Field


class ClassProbability(BaseModel):
    """A class and its probability, in [0, 1]."""

    class_: str = Field(alias="class")
    probability: float


class Prediction(BaseModel):
    """The prediction for one photograph: its classes, the likeliest first, or an error."""

    image: str = Field(description="the file's name in the request")
    answer: str | None = Field(
        None, description='the likeliest class, or "unknown" below the reject threshold; absent without a threshold'
    )
    top: list[ClassProbability] | None = None
    classes: list[ClassProbability] | None = Field(None, description="replaces `top` for a multi-label model")
    heat_map: str | None = Field(None, description="a PNG as a data URL")
    error: str | None = Field(None, description="why the photograph can't be read")


class Answer(BaseModel):
    """The answer to a request: an entry for each photograph, in the order of the request."""

    model: str
    predictions: list[Prediction]
    detail: str | None = Field(None, description="the reason if a photograph can't be read")


class Problem(BaseModel):
    """The answer to a request that was refused: the reason, in one line."""

    detail: str


class Model(BaseModel):
    """The model, and the limits of a request."""

    name: str
    classes: list[str]
    multi_label: bool
    explains: bool = Field(description="whether the parameter `explain` adds heat maps")
    max_bytes: int
    max_pixels: int
    max_images: int


class Health(BaseModel):
    """The state of the service: "ok" or "failed"."""

    status: str


PROBLEMS: dict[int | str, dict[str, Any]] = {
    400: {"model": Problem, "description": "The form or a parameter is invalid"},
    401: {"model": Problem, "description": "The bearer token is missing or wrong"},
    408: {"model": Problem, "description": "The body arrived too slowly"},
    413: {"model": Problem, "description": "The request has too many bytes, or a photograph too many pixels"},
    429: {"model": Problem, "description": "The queue is full; Retry-After says when to try again"},
    503: {"model": Problem, "description": "The service could not answer in time"},
}
