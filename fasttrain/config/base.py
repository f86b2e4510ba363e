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
"""The values "auto", "on" and "off". True and False are accepted for "on" and "off"."""


class Settings(BaseModel):
    """Base class of the groups of settings. Instances are immutable.

    Raises pydantic.ValidationError for an unknown setting or an invalid value.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, validate_default=True)

    def changed(self, names: Iterable[str]) -> list[str]:
        """Return those of `names` whose settings were given with a value that differs from the default."""
        fields = type(self).model_fields
        return [name for name in names if name in self.model_fields_set and getattr(self, name) != fields[name].default]
