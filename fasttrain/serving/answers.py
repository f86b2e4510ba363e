"""Schemas of the service's answers, for its OpenAPI page."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, Field


class ClassProbability(BaseModel):
    """A class and its probability, in [0, 1], rounded to 6 decimals."""

    class_: str = Field(alias="class")
    probability: float


class Prediction(BaseModel):
    """The prediction for one photograph: its classes, the likeliest first, or the error if it can't be read."""

    image: str | None = Field(
        None, description="the file's name in the form; absent if the request's body is the photograph"
    )
    answer: str | None = Field(
        None,
        description='the likeliest class, or "unknown" if its probability is below the reject threshold; absent if '
        "the service has no threshold",
    )
    top: list[ClassProbability] | None = Field(None, description="the `top_k` likeliest classes")
    classes: list[ClassProbability] | None = Field(
        None, description="in place of `top` if the model is multi-label: all classes that reach their thresholds"
    )
    heat_map: str | None = Field(None, description="a PNG as a data URL, if the request has `explain`")
    error: str | None = Field(None, description="why the photograph can't be read; absent if it can")


class Answer(BaseModel):
    """The answer to a request: the model's name, and a prediction for each photograph in the order of the request."""

    model: str
    predictions: list[Prediction]
    detail: str | None = Field(
        None, description="one line about the photographs that can't be read; absent if all can be read"
    )


class Problem(BaseModel):
    """The answer to a request that was refused: the reason, in one line."""

    detail: str


class Model(BaseModel):
    """The served model, and the greatest request that the service accepts."""

    name: str
    classes: list[str]
    multi_label: bool
    explains: bool = Field(description="whether the parameter `explain` adds heat maps")
    max_bytes: int = Field(description="the greatest size of a request's body")
    max_pixels: int = Field(description="the greatest width times height of a photograph")
    max_images: int = Field(description="the greatest number of photographs in a request")


class Health(BaseModel):
    """The state of the service: "ok" if it can predict, otherwise "failed"."""

    status: str


PROBLEMS: dict[int | str, dict[str, Any]] = {
    400: {"model": Problem, "description": "The form or a parameter is invalid, or a parameter is unknown"},
    401: {"model": Problem, "description": "The bearer token is missing or wrong"},
    408: {"model": Problem, "description": "The body arrived too slowly"},
    413: {"model": Problem, "description": "The request has too many bytes, or a photograph too many pixels"},
    429: {"model": Problem, "description": "The queue is full; Retry-After says when to try again"},
    503: {"model": Problem, "description": "The service could not answer in time"},
}
