"""Settings that users write as short strings, which are parsed into objects: `n2-m9`, `128:224`, `10min`, `50GB`."""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar

from pydantic import GetCoreSchemaHandler
from pydantic_core import CoreSchema, core_schema

from fasttrain.errors import UserError

if TYPE_CHECKING:
    from typing_extensions import Self

_SECONDS = {"s": 1, "sec": 1, "m": 60, "min": 60, "h": 3600}
_DECIMAL = {"": 1, "k": 10**3, "m": 10**6, "g": 10**9, "t": 10**12}
_BINARY = {"k": 2**10, "m": 2**20, "g": 2**30, "t": 2**40}
_STRIDE = 32  # every timm model's
_LARGEST_SIDE = 2048  # px


class InvalidValue(UserError, ValueError):
    """Raised for a setting that can't be parsed or is out of range.

    It is a ValueError because pydantic requires one of its validators.
    """


@dataclass(frozen=True, kw_only=True)
class ParsedValue(ABC):
    """Base class of settings that are parsed from a string.

    `text` is what the user wrote. It is shown and saved, but `==` ignores it. A pydantic field of a subclass accepts an
    instance, or a value to parse, and is dumped as the result of `plain`.
    """

    text: str = field(default="", compare=False, repr=False)

    written_as: ClassVar[Any] = str
    """The types that `parse` accepts, from a file or the command line."""

    @classmethod
    @abstractmethod
    def parse(cls, text: Any) -> Self:
        """Return the value that `text` describes. Raises InvalidValue if it can't be parsed or is out of range.

        `text`: of one of the types `written_as`, usually str.
        """

    @abstractmethod
    def canonical(self) -> str:
        """Return a string that `parse` turns into this value. It is shown if the user didn't write one."""

    def __str__(self) -> str:
        return self.text or self.canonical()

    def plain(self) -> str | int:
        """Return the value as a str or int for TOML and JSON, which `parse` turns into this value again."""
        return str(self)

    @classmethod
    def of(cls, given: str | Self | None) -> Self | None:
        """Return `given` itself, or parse it if it is a string. Raises InvalidValue if it can't be parsed."""
        return cls.parse(given) if isinstance(given, str) else given

    @classmethod
    def __get_pydantic_core_schema__(cls, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        def validate(given: Any, check_type: core_schema.ValidatorFunctionWrapHandler) -> ParsedValue:
            return given if isinstance(given, cls) else cls.parse(check_type(given))

        return core_schema.no_info_wrap_validator_function(
            validate,
            handler.generate_schema(cls.written_as),
            serialization=core_schema.plain_serializer_function_ser_schema(cls.plain),
        )


@dataclass(frozen=True)
class RandAugment(ParsedValue):
    """RandAugment with `n` operations per photograph (1 to 4) at magnitude `m` (0 to 10).

    Written "n2-m9", or "rand-m9-n2" as in timm.
    """

    n: int
    m: int

    def __post_init__(self) -> None:
        n, m = min(max(self.n, 1), 4), min(max(self.m, 0), 10)
        if (n, m) != (self.n, self.m):
            raise InvalidValue(f"rand_augment = '{self}' is out of range; the nearest valid value is n{n}-m{m}")

    @classmethod
    def parse(cls, text: str) -> RandAugment:
        found = re.fullmatch(r"(?:rand-)?(?:n(\d+)-m(\d+)|m(\d+)-n(\d+))", text)
        if not found:
            raise InvalidValue(f"rand_augment = '{text}' is invalid; write n2-m9 for 2 operations at magnitude 9")
        n, m, m_first, n_second = found.groups()
        return cls(int(n or n_second), int(m or m_first), text=text)

    def canonical(self) -> str:
        return f"n{self.n}-m{self.m}"


@dataclass(frozen=True)
class Progressive(ParsedValue):
    """Image sizes that grow from the `first` epoch to the `last`: sides in px, multiples of 32. Written "128:224"."""

    first: int
    last: int

    def __post_init__(self) -> None:
        sides = self.first, self.last
        first, last = (min(max(round(side / _STRIDE), 1), _LARGEST_SIDE // _STRIDE) * _STRIDE for side in sides)
        if (first, last) != sides:
            raise InvalidValue(
                f"progressive = '{self}': sizes must be multiples of {_STRIDE}; the nearest valid value is "
                f"{first}:{last}"
            )
        if first > last:
            raise InvalidValue(f"progressive = '{self}' runs backwards; did you mean {last}:{first}?")

    @classmethod
    def parse(cls, text: str) -> Progressive:
        found = re.fullmatch(r"(\d+):(\d+)", text)
        if not found:
            raise InvalidValue(f"progressive = '{text}' is invalid; write 128:224, the first and the last side in px")
        return cls(int(found[1]), int(found[2]), text=text)

    def canonical(self) -> str:
        return f"{self.first}:{self.last}"


@dataclass(frozen=True)
class Fold(ParsedValue):
    """Fold `number` (from 1) of `count` folds (2 to 100) of a cross-validation. Written "2/5"."""

    number: int
    count: int

    def __post_init__(self) -> None:
        count = min(max(self.count, 2), 100)
        number = min(max(self.number, 1), count)
        if (number, count) != (self.number, self.count):
            raise InvalidValue(f"fold = '{self}' is out of range; the nearest valid value is {number}/{count}")

    @classmethod
    def parse(cls, text: str) -> Fold:
        found = re.fullmatch(r"(\d+)/(\d+)", text)
        if not found:
            raise InvalidValue(f"fold = '{text}' is invalid; write 2/5 for the second of five folds")
        return cls(int(found[1]), int(found[2]), text=text)

    def canonical(self) -> str:
        return f"{self.number}/{self.count}"


@dataclass(frozen=True)
class SaveEvery(ParsedValue):
    """The interval between checkpoints within an epoch, in optimizer `steps` or in `seconds`.

    If both are None, there are no checkpoints within an epoch. Written 500 or "500" (steps), "30s", "10min", "1.5h" or
    "off".
    """

    steps: int | None = None
    seconds: float | None = None

    written_as: ClassVar[Any] = int | str

    def __post_init__(self) -> None:
        if self.steps is not None and self.seconds is not None:
            raise InvalidValue("save_every takes steps or seconds, not both; leave one out")
        if self.steps is not None and self.steps < 1:
            raise InvalidValue(f"save_every = {self} is out of range: the nearest valid value is 1, or off")
        if self.seconds is not None and self.seconds < 1:
            raise InvalidValue(f"save_every = '{self}' is out of range: the nearest valid value is 1s")

    @classmethod
    def parse(cls, text: int | str) -> SaveEvery:
        text = str(text)
        tidy = text.strip().lower()
        if tidy == "off":
            return cls(text=text)
        if found := re.fullmatch(r"(\d+(?:\.\d+)?)\s*(s|sec|m|min|h)", tidy):
            return cls(seconds=float(found[1]) * _SECONDS[found[2]], text=text)
        if not re.fullmatch(r"-?\d+", tidy):
            raise InvalidValue(f"save_every = '{text}' is invalid; write 200 (steps), 10min, or off")
        return cls(steps=int(tidy), text=text)

    def canonical(self) -> str:
        if self.seconds is None:
            return "off" if self.steps is None else str(self.steps)
        return f"{self.seconds // 60:.0f}min" if self.seconds % 60 == 0 else f"{self.seconds}s"

    def plain(self) -> str | int:
        return str(self) if self.steps is None else self.steps


@dataclass(frozen=True)
class CacheSize(ParsedValue):
    """The greatest size of a cache in bytes, at least 1. Written "50GB", "500 MB", "1.5TiB", or "50" (GB)."""

    bytes: int

    def __post_init__(self) -> None:
        if self.bytes < 1:
            raise InvalidValue(f"cache_size = '{self}' is too small; write 50GB, or 500MB")

    @classmethod
    def parse(cls, text: str) -> CacheSize:
        tidy = text.strip().lower()
        found = re.fullmatch(r"(\d+(?:\.\d+)?)\s*(?:([kmgt]?)(i?)b?)?", tidy)
        if not found:
            raise InvalidValue(f"cache_size = '{text}' is invalid; write 50GB, or 500MB")
        number, unit, binary = found.groups()
        factor = _DECIMAL["g"] if tidy == number else (_BINARY if binary else _DECIMAL).get(unit, 1)
        return cls(int(float(number) * factor), text=text)

    def canonical(self) -> str:
        return f"{self.bytes}B"


LONGEST_WARMUP = 0.5  # epochs


def usual_warmup(epochs: float, *, head_first: bool) -> float:
    """Return the default of `warmup_epochs`: how many epochs long the learning rate rises at the start.

    `epochs`: the number of epochs in which the entire model trains. The warm-up takes half an epoch, but at most a
    tenth of `epochs`. EfficientNet-Lite0 on photographs of clothing reached 77 % in a run of one epoch with a warm-up
    of a tenth, and 64 % with half an epoch (one seed).

    `head_first`: the classifier is fitted before the entire model trains. The warm-up then takes half an epoch even in
    short runs, because large steps at the start destroy the features that the classifier was fitted to. The same run
    reached 87 % with half an epoch, and 84 % with a tenth.
    """
    return min(LONGEST_WARMUP, epochs if head_first else epochs / 10)
