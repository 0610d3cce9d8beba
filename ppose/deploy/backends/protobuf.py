"""Protobuf wire format: reads and writes fields of a message without its schema."""

from __future__ import annotations

from collections.abc import Iterator

Field = tuple[int, int | memoryview]

_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5
_FIXED = {_FIXED64: 8, _FIXED32: 4}
_MAX_NUMBER = (1 << 29) - 1


def fields(message: memoryview) -> Iterator[Field]:
    """Number and value of each field in order: an int for a varint, else a view of the bytes.

    Raises:
        ValueError: not a message, or truncated.
    """
    at, end = 0, len(message)
    while at < end:
        tag, at = _varint(message, at)
        number, kind = tag >> 3, tag & 7
        if not 0 < number <= _MAX_NUMBER:
            raise ValueError(f"a field with the number {number}")
        if kind == _VARINT:
            value, at = _varint(message, at)
            yield number, value
            continue
        if kind == _BYTES:
            size, at = _varint(message, at)
        elif kind in _FIXED:
            size = _FIXED[kind]
        else:
            raise ValueError(f"unknown wire type {kind}")
        if at + size > end:
            raise ValueError("a field extends past the end")
        yield number, message[at : at + size]
        at += size


def messages(message: memoryview, number: int) -> Iterator[memoryview]:
    """All fields with this number that are messages, strings or bytes."""
    return (v for n, v in fields(message) if n == number and isinstance(v, memoryview))


def single(message: memoryview, number: int) -> int | memoryview | None:
    """The field with this number, or None.

    Raises:
        ValueError: there are several. Parsers differ in which one they take, or join them, so that
            another one would read another message.
    """
    values = [value for n, value in fields(message) if n == number]
    if len(values) > 1:
        raise ValueError(f"field {number} is given {len(values)} times, expected once")
    return values[0] if values else None


def text(message: memoryview, number: int) -> str:
    """The field with this number as a string; ValueError if it is missing or repeated."""
    value = single(message, number)
    if not isinstance(value, memoryview):
        raise ValueError(f"no text in field {number}")
    return str(value, "utf-8")


def integer(message: memoryview, number: int, default: int) -> int:
    """The field with this number as an integer; ValueError if it is text or repeated."""
    value = single(message, number)
    if isinstance(value, memoryview):
        raise ValueError(f"no integer in field {number}")
    return default if value is None else _signed(value)


def integers(message: memoryview, number: int) -> list[int]:
    """All values of a repeated int64 field, packed or not."""
    found: list[int] = []
    for n, value in fields(message):
        if n != number:
            continue
        if isinstance(value, int):
            found.append(_signed(value))
            continue
        at = 0
        while at < len(value):
            one, at = _varint(value, at)
            found.append(_signed(one))
    return found


def field(number: int, content: bytes) -> bytes:
    """Encodes a field that is a message, a string or bytes."""
    return _encoded(number << 3 | _BYTES) + _encoded(len(content)) + content


def _encoded(value: int) -> bytes:
    low, rest = value & 127, value >> 7
    return bytes([low | 128]) + _encoded(rest) if rest else bytes([low])


def _signed(value: int) -> int:
    return value - (1 << 64) if value >> 63 else value


def _varint(message: memoryview, at: int) -> tuple[int, int]:
    value = shift = 0
    while shift < 70:
        try:
            byte = message[at]
        except IndexError:
            raise ValueError("truncated varint") from None
        at += 1
        value |= (byte & 127) << shift
        if byte < 128:
            if value >> 64:
                raise ValueError("a varint of more than 64 bits")
            return value, at
        shift += 7
    raise ValueError("a varint of more than 10 bytes")
