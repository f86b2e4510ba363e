"""Text that people write: files in the encodings that their editors save, and misspelt names."""

from __future__ import annotations

import codecs
import difflib
from pathlib import Path

from fasttrain.errors import UserError

# UTF-32's mark begins with UTF-16's, so it comes first.
_MARKS = (
    (codecs.BOM_UTF8, "utf-8"),
    (codecs.BOM_UTF32_LE, "utf-32-le"),
    (codecs.BOM_UTF32_BE, "utf-32-be"),
    (codecs.BOM_UTF16_LE, "utf-16-le"),
    (codecs.BOM_UTF16_BE, "utf-16-be"),
)


def read_text(path: Path) -> str:
    """Read a UTF-8 text file, or a UTF-16 or UTF-32 one that begins with a byte-order mark.

    The result has no byte-order mark, and every line ends with a newline character alone. Raises OSError where the file
    can't be read, and UserError, which names the file and the line, where it is in another encoding.
    """
    return decode_text(path.read_bytes(), path)


def decode_text(data: bytes, path: Path) -> str:
    """Return what `read_text` does of a file's bytes; `path` is for the messages."""
    mark, encoding = next((each for each in _MARKS if data.startswith(each[0])), (b"", "utf-8"))
    data = data[len(mark) :]
    before, nul, _ = data.decode(encoding, "replace").partition("\0")
    if nul:
        raise UserError(
            f"{path}: line {_lines(before)}: a NUL character; the file was saved as UTF-16 without a byte-order "
            "mark, or is no text: save it as UTF-8"
        )
    try:
        return _plain_newlines(data.decode(encoding))
    except UnicodeDecodeError as error:
        line = _lines(data[: error.start].decode(encoding))
        wrong = data[error.start : error.start + 1].hex().upper()
        raise UserError(
            f"{path}: line {line}: the byte 0x{wrong} is not {encoding.upper()}; the file was saved in another "
            "encoding (Windows-1252, say): save it as UTF-8"
        ) from None


def _lines(text: str) -> int:
    return _plain_newlines(text).count("\n") + 1


def _plain_newlines(text: str) -> str:
    return text.replace("\r\n", "\n").replace("\r", "\n")


def printable(text: str) -> str:
    """Return `text` with each control character, line break and change of direction in the form of an escape.

    Bytes of a file's name that are no UTF-8 stay as `os.fsdecode` gives them.
    """
    if text.isprintable():
        return text
    return "".join(
        letter if letter.isprintable() or "\udc80" <= letter <= "\udcff" else repr(letter)[1:-1] for letter in text
    )


def nearest(given: str, valid: list[str]) -> str:
    """Return "; did you mean 'x'?" where something valid looks like `given`, else the empty string."""
    close = difflib.get_close_matches(given, valid, n=1, cutoff=0.5)
    return f"; did you mean '{close[0]}'?" if close else ""
