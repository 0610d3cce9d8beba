"""JSON files of any size, read in pieces."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from io import TextIOWrapper
from typing import Any, BinaryIO, cast

import msgspec

_PIECE = 2**20  # characters
_CUT_NUMBER = 2  # characters behind 1 in 1e+, which may go on in the next piece
_BLANKS = re.compile(r"[ \t\n\r]*")


class JsonText:
    """Goes through a JSON document once, with about a piece of its text in memory.

    What is read and which errors are raised, with line and column, is what `json.loads` gives for
    the whole text.

    Args:
        file: the text, opened with an encoding that skips a byte order mark.
        object_hook: see `json.loads`.

    Raises:
        json.JSONDecodeError: from every method; the place is that in the file.
        UnicodeDecodeError: likewise; `start` is the byte in the file.
    """

    def __init__(
        self, file: TextIOWrapper, object_hook: Callable[[dict[str, Any]], Any] | None = None
    ):
        self._file, self._bytes = file, cast(BinaryIO, file.buffer)
        self._scan = json.JSONDecoder(object_hook=object_hook).raw_decode
        self._text, self._at = "", 0
        self._lines, self._column = 0, 0  # before the text in memory

    def peek(self) -> str:
        """The next character that is no blank, not yet taken; "" at the end."""
        while True:
            blanks = _BLANKS.match(self._text, self._at)
            assert blanks is not None
            self._at = blanks.end()
            if self._at < len(self._text):
                return self._text[self._at]
            if not self._more():
                return ""

    def value(self) -> Any:
        """The value that comes next, whatever it is."""
        self.peek()
        while True:
            try:
                value, end = self._scan(self._text, self._at)
            except json.JSONDecodeError as error:
                if self._more():
                    continue
                raise self._placed(error) from None
            if end + _CUT_NUMBER < len(self._text) or not self._more():
                self._at = end
                return value

    def members(self) -> Iterator[str]:
        """The keys of the object that comes next; the caller takes the value behind each."""
        self._take("{", "Expecting value")
        if self._took("}"):
            return
        while True:
            if self.peek() != '"':
                raise self._error("Expecting property name enclosed in double quotes")
            key = self.value()
            self._take(":", "Expecting ':' delimiter")
            yield key
            if self._took("}"):
                return
            self._take(",", "Expecting ',' delimiter")

    def elements(self, plain: msgspec.json.Decoder | None = None) -> Iterator[Any]:
        """The entries of the list that comes next.

        Args:
            plain: tried first on objects, and much faster; what it refuses comes as `value`.
        """
        self._take("[", "Expecting value")
        if self._took("]"):
            return
        while True:
            is_object = self.peek() == "{"
            entry = self._plain(plain) if plain and is_object else None
            yield self.value() if entry is None else entry
            if self._took("]"):
                return
            self._take(",", "Expecting ',' delimiter")

    def finish(self) -> None:
        """Nothing may follow."""
        if self.peek():
            raise self._error("Extra data")

    def _plain(self, decoder: msgspec.json.Decoder) -> Any:
        """The object up to the next brace, or None.

        Where a brace closes an inner object or stands in a string, what precedes it is no whole
        object, and the decoder refuses it.
        """
        end = self._text.find("}", self._at) + 1
        if not end:
            return None
        try:
            entry = decoder.decode(self._text[self._at : end])
        except (msgspec.MsgspecError, RecursionError):
            return None
        self._at = end
        return entry

    def _took(self, character: str) -> bool:
        if self.peek() != character:
            return False
        self._at += 1
        return True

    def _take(self, character: str, otherwise: str) -> None:
        if not self._took(character):
            raise self._error(otherwise)

    def _more(self) -> bool:
        """Reads on and forgets what was taken; False at the end of the file.

        Reads as much again as is waiting, so that a long value is not scanned too often.
        """
        try:
            piece = self._file.read(max(_PIECE, len(self._text) - self._at))
        except UnicodeDecodeError as error:
            error.start += self._bytes.tell() - len(error.object)
            raise
        if not piece:
            return False
        taken, waiting = self._text[: self._at], self._text[self._at :]
        self._lines += taken.count("\n")
        line = taken.rfind("\n") + 1
        self._column = len(taken) - line + (0 if line else self._column)
        self._text, self._at = waiting + piece, 0
        return True

    def _error(self, message: str) -> json.JSONDecodeError:
        return self._placed(json.JSONDecodeError(message, self._text, self._at))

    def _placed(self, error: json.JSONDecodeError) -> json.JSONDecodeError:
        if error.lineno == 1:
            error.colno += self._column
        error.lineno += self._lines
        return error
