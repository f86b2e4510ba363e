"""Read text files in the encodings that editors save, and phrase parts of messages."""

from __future__ import annotations

import codecs
import difflib
from pathlib import Path

from fasttrain.errors import UserError

# UTF-32 comes before UTF-16, whose byte-order mark its own begins with.
_MARKS = (
    (codecs.BOM_UTF8, "utf-8"),
    (codecs.BOM_UTF32_LE, "utf-32-le"),
    (codecs.BOM_UTF32_BE, "utf-32-be"),
    (codecs.BOM_UTF16_LE, "utf-16-le"),
    (codecs.BOM_UTF16_BE, "utf-16-be"),
)


def probability_percent(probability: float) -> str:
    """Return a probability in [0, 1] in percent, with one decimal: "12.3" for 0.1234.

    The result is at most "99.9": beside "100.0", other classes with a probability above 0 would be a contradiction.
    """
    return f"{100 * min(probability, 0.999):.1f}"


def read_text(path: Path) -> str:
    """Read a text file in UTF-8, or in UTF-16 or UTF-32 with a byte-order mark.

    The result has no byte-order mark, and its line ends are plain newline characters. Raises OSError if the file can't
    be read, and UserError, which names the file and the line, if it has another encoding.
    """
    return decode_text(path.read_bytes(), path)


def decode_text(data: bytes, path: Path) -> str:
    """Decode the bytes of a text file as `read_text` does. Messages name the file `path`."""
    mark, encoding = next((each for each in _MARKS if data.startswith(each[0])), (b"", "utf-8"))
    data = data[len(mark) :]
    before, nul, _ = data.decode(encoding, "replace").partition("\0")
    if nul:
        raise UserError(
            f"{path}: line {_count_lines(before)}: a NUL character; the file was saved as UTF-16 without a byte-order "
            "mark, or is not a text file: save it as UTF-8"
        )
    try:
        return _plain_newlines(data.decode(encoding))
    except UnicodeDecodeError as error:
        line = _count_lines(data[: error.start].decode(encoding))
        wrong = data[error.start : error.start + 1].hex().upper()
        raise UserError(
            f"{path}: line {line}: the byte 0x{wrong} is not {encoding.upper()}; the file was saved in another "
            "encoding, such as Windows-1252: save it as UTF-8"
        ) from None


def _count_lines(text: str) -> int:
    return _plain_newlines(text).count("\n") + 1


def _plain_newlines(text: str) -> str:
    return text.replace("\r\n", "\n").replace("\r", "\n")


def printable(text: str) -> str:
    """Return `text` with control characters, line breaks and changes of writing direction as escapes such as "\\n".

    The surrogates by which `os.fsdecode` represents bytes that are not UTF-8 stay unchanged.
    """
    if text.isprintable():
        return text
    return "".join(
        letter if letter.isprintable() or "\udc80" <= letter <= "\udcff" else repr(letter)[1:-1] for letter in text
    )


def counted(count: int, noun: str, plural: str | None = None) -> str:
    """Return `count` with its noun, such as "1 file" or "1,234 files".

    `plural` is the noun for any count other than 1, by default `noun` with an s.
    """
    return f"{count:,} {noun if count == 1 else plural or noun + 's'}"


def nearest(given: str, valid: list[str]) -> str:
    """Return "; did you mean 'x'?" with the name in `valid` that is most similar to `given`.

    Return "" if no name is similar.
    """
    close = closest(given, valid)
    return "" if close is None else f"; did you mean '{close}'?"


def closest(given: str, valid: list[str]) -> str | None:
    """Return the name in `valid` that is most similar to `given`, or None if no name is similar."""
    return next(iter(difflib.get_close_matches(given, valid, n=1, cutoff=0.5)), None)
