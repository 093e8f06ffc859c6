"""Large JSON files, item by item: neither the text nor its values are ever in memory as a whole."""

import gzip
import io
import json
import re
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any, NoReturn

from unetpipe.annotations.shapes import refused

__all__ = ["iter_items"]

_CHUNK = 2**20
_ITEM_LIMIT = 256 * 2**20
_TOTAL_LIMIT = 16 * 2**30
_GZIP_FREE = 64 * 2**20
_GZIP_RATIO = 200
_BLANK = re.compile(r"[ \t\r\n]*")


def _no_number(name: str) -> NoReturn:
    """Refuse NaN and Infinity, which are not JSON."""
    raise ValueError(f"holds {name}, which is no number")


_DECODER = json.JSONDecoder(parse_constant=_no_number)


def iter_items(path: Path) -> Iterator[tuple[str, Any]]:
    """Read the items of a JSON file one after the other.

    Parameters
    ----------
    path : Path
        An object or a list in UTF-8, gzipped or not.

    Yields
    ------
    str, any
        For an object: its keys and values in the order of the file, but a list as value item by item, behind one None
        that announces it. For a list: "" and each item.

    Raises
    ------
    AnnotationError
        If the text is not JSON, not complete, nested too deeply, larger than 16 GiB, has an item of more than 256 Mi
        characters, or expands by more than 200:1 above 64 MiB.

    Notes
    -----
    Memory: a few times the largest item.
    """
    try:
        with path.open("rb") as file:
            is_gzip = file.read(2) == b"\x1f\x8b"
        limit = max(_GZIP_FREE, _GZIP_RATIO * path.stat().st_size) if is_gzip else _TOTAL_LIMIT
        with (
            gzip.open(path) if is_gzip else path.open("rb") as binary,
            io.TextIOWrapper(binary, encoding="utf-8-sig") as text,
        ):
            yield from _Text(path, text, min(limit, _TOTAL_LIMIT)).items()
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise refused(path, f"is damaged: {error or 'its gzip stream ends too early'}") from None
    except UnicodeDecodeError:
        raise refused(path, "is not UTF-8 text; save it as UTF-8") from None


class _Text:
    """A text that is read in chunks and parsed from the front."""

    def __init__(self, path: Path, file: IO[str], limit: int) -> None:
        self.path = path
        self.file = file
        self.limit = limit
        self.text = ""
        self.at = 0
        self.before = 0
        self.ended = False

    def fill(self) -> None:
        """Read on, as much again as is there, and forget what was parsed."""
        chunk = self.file.read(max(_CHUNK, len(self.text) - self.at))
        self.ended = not chunk
        self.before += self.at
        self.text, self.at = self.text[self.at :] + chunk, 0
        if self.before + len(self.text) > self.limit:
            raise refused(
                self.path, f"expands to more than {self.limit} characters: damaged or hostile; export it anew"
            )

    def peek(self) -> str:
        """The next character that is not blank; "" at the end."""
        while True:
            blank = _BLANK.match(self.text, self.at)
            self.at = blank.end() if blank else self.at
            if self.at < len(self.text) or self.ended:
                return self.text[self.at : self.at + 1]
            self.fill()

    def expect(self, wanted: str) -> str:
        """The next character, which must be one of these; it is consumed."""
        found = self.peek()
        if not found or found not in wanted:
            self.fail(f"expected {' or '.join(wanted)}, came {found or 'the end of the file'}", self.at)
        self.at += 1
        return found

    def fail(self, reason: str, at: int) -> NoReturn:
        """Refuse the file, naming the place."""
        raise refused(self.path, f"is not valid JSON at character {self.before + at + 1}: {reason}")

    def value(self) -> Any:
        """The next value, whole."""
        self.peek()
        while True:
            try:
                value, end = _DECODER.raw_decode(self.text, self.at)
            except json.JSONDecodeError as error:
                if self.ended:
                    self.fail(error.msg, error.pos)
            except RecursionError:
                self.fail("nested too deeply", self.at)
            except ValueError as error:
                self.fail(str(error), self.at)
            else:
                # A number at the end of the chunk may go on in the next one.
                if end < len(self.text) or self.ended:
                    self.at = end
                    return value
            if len(self.text) - self.at > _ITEM_LIMIT:
                self.fail(f"one item has more than {_ITEM_LIMIT} characters, or is not closed", self.at)
            self.fill()

    def elements(self) -> Iterator[Any]:
        """The items of the list that comes next."""
        self.expect("[")
        if self.peek() == "]":
            self.expect("]")
            return
        yield self.value()
        while self.expect(",]") == ",":
            yield self.value()

    def pair(self) -> Iterator[tuple[str, Any]]:
        """The key and value that come next."""
        if self.peek() != '"':
            self.fail(f"expected a key in quotes, came {self.peek() or 'the end of the file'}", self.at)
        key = str(self.value())
        self.expect(":")
        if self.peek() == "[":
            yield key, None
            for item in self.elements():
                yield key, item
        else:
            yield key, self.value()

    def items(self) -> Iterator[tuple[str, Any]]:
        """All items of the file."""
        if self.peek() == "[":
            for item in self.elements():
                yield "", item
        else:
            self.expect("{")
            if self.peek() == "}":
                self.expect("}")
            else:
                yield from self.pair()
                while self.expect(",}") == ",":
                    yield from self.pair()
        if self.peek():
            self.fail(f"expected the end of the file, came {self.peek()}", self.at)
