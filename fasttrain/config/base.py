"""The base class of the groups of settings, and types that several groups use."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Annotated, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

Share = Annotated[float, Field(gt=0, le=1)]
"""A share, in (0, 1]."""

Switch = Annotated[
    Literal["auto", "on", "off"],
    BeforeValidator(lambda value: {True: "on", False: "off"}[value] if isinstance(value, bool) else value),
]
"""auto, on or off. True and False are also accepted."""


class Settings(BaseModel):
    """Base of the groups. Instances are immutable, and unknown settings raise a validation error."""

    model_config = ConfigDict(extra="forbid", frozen=True, validate_default=True)

    def changed(self, names: Iterable[str]) -> list[str]:
        """Return those settings among `names` that were set to another value than their default."""
        fields = type(self).model_fields
        return [name for name in names if name in self.model_fields_set and getattr(self, name) != fields[name].default]
