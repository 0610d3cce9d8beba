"""Reading of pickles without running anything.

`pickle.Unpickler` cannot be made safe: nested keys overflow the C stack, shared values make a small
file take forever or all memory. This reader knows the opcodes that containers, numbers, text and
bytes need, in the protocols 2 to 5. It never recurses, and bounds what a file can make it do.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Callable, Mapping
from typing import IO, Any

import numpy as np

# HRNet-w48 has 2,000 tensors, for which PyTorch writes 280,000 with the optimizer's. Each makes at
# most one small object, so that they are read in a second and in 100 MB.
MAX_OPCODES = 500_000
_MAX_NUMBER = 255  # bytes of an integer
_MAX_NAME = 1000  # bytes of a line
_LONG_TEXT = 1 << 16  # bytes from which text has to be the Latin-1 of an array's content
_MARK = object()

Globals = Mapping[tuple[str, str], Any]


class RefusedPickleError(Exception):
    """Content that a file of arrays does not need."""


class DamagedPickleError(Exception):
    """Not a whole pickle."""


class PickleReader:
    """Reads the pickles of one file, one after the other.

    All that is counted is counted over all of them.

    Args:
        file: open for reading in binary, at the beginning of a pickle.
        known: gives what stands for a global, by module and name: a value, or a function of what
            this reader made. It raises RefusedPickleError for those that the file may not use.
        key_types: types that the keys of dicts may have.
        persistent: called with the id of a persistent object; None refuses them.
        size: bytes that may be read; None for all of the file.
    """

    def __init__(
        self,
        file: IO[bytes],
        known: Callable[[str, str], Any],
        key_types: tuple[type, ...] = (str,),
        persistent: Callable[[Any], Any] | None = None,
        size: int | None = None,
    ):
        self._file = file
        self._known = known
        self._key_types = key_types
        self._persistent = persistent
        self._end = os.fstat(file.fileno()).st_size if size is None else file.tell() + size
        self._left = MAX_OPCODES

    def read(self) -> Any:
        """The next object.

        Raises:
            RefusedPickleError: other content than this reader knows, or too much of it.
            DamagedPickleError: damaged or cut off.
        """
        self._stack: list[Any] = []
        self._memo: dict[int, Any] = {}
        try:
            while (code := self._bytes(1)) != b".":
                self.spend(1)
                step = _OPCODES.get(code)
                if step is None:
                    raise RefusedPickleError(
                        f"has the opcode {code!r}, which files of arrays do not need"
                    )
                step(self)
            return self._stack.pop()
        except (LookupError, ValueError, TypeError, AttributeError, struct.error) as error:
            raise DamagedPickleError(f"{type(error).__name__}: {error}") from None
        finally:
            del self._stack, self._memo

    def spend(self, count: int) -> None:
        """Counts steps or objects; RefusedPickleError beyond what any file of arrays needs."""
        self._left -= count
        if self._left < 0:
            raise RefusedPickleError(
                f"has more than {MAX_OPCODES} opcodes, more than files of arrays need"
            )

    def dict_of(self, pairs: Any = ()) -> dict:
        """A dict of pairs, as `OrderedDict` has in a pickle."""
        self.spend(len(pairs))
        made: dict = {}
        for key, value in pairs.items() if isinstance(pairs, dict) else pairs:
            self._set(made, key, value)
        return made

    def _bytes(self, count: int) -> bytes:
        if count > self._end - self._file.tell():
            raise DamagedPickleError("it ends too early")
        return self._file.read(count)

    def _number(self, layout: str) -> Any:
        return struct.unpack(layout, self._bytes(struct.calcsize(layout)))[0]

    def _block(self, length: str) -> bytes:
        """As many bytes as a number before them says."""
        return self._bytes(self._number(length))

    def _line(self) -> str:
        line = self._file.readline(min(_MAX_NAME, self._end - self._file.tell()))
        if not line.endswith(b"\n"):
            raise DamagedPickleError("a name does not end")
        return line[:-1].decode()

    def _push(self, value: Any) -> None:
        self._stack.append(value)

    def _since_mark(self) -> list[Any]:
        items: list[Any] = []
        while (item := self._stack.pop()) is not _MARK:
            items.append(item)
        return items[::-1]

    def _take(self, count: int) -> tuple:
        """The last values, which become one."""
        if len(self._stack) < count:
            raise DamagedPickleError("it takes more values than it has")
        at = len(self._stack) - count
        items = tuple(self._stack[at:])
        del self._stack[at:]
        return items

    def _set(self, target: Any, key: Any, value: Any) -> None:
        if type(key) not in self._key_types:
            expected = " or ".join("text" if t is str else t.__name__ for t in self._key_types)
            raise RefusedPickleError(f"has a {type(key).__name__} as a key, expected {expected}")
        if type(key) is int and key.bit_length() > 64:  # larger ones can have equal hashes
            raise RefusedPickleError("has an integer of more than 64 bits as a key")
        if type(target) is not dict:
            raise DamagedPickleError("it sets an entry of something that is not a dict")
        target[key] = value

    def _set_items(self) -> None:
        items = self._since_mark()
        for key, value in zip(items[::2], items[1::2], strict=True):
            self._set(self._stack[-1], key, value)

    def _set_item(self) -> None:
        key, value = self._take(2)
        self._set(self._stack[-1], key, value)

    def _extend(self, items: list[Any]) -> None:
        if type(self._stack[-1]) is not list:
            raise DamagedPickleError("it appends to something that is not a list")
        self._stack[-1].extend(items)

    def _text(self, length: str) -> None:
        raw = self._block(length)
        # Any other text could take four times its bytes.
        if len(raw) > _LONG_TEXT and np.frombuffer(raw, np.uint8).max() > 0xC3:
            raise RefusedPickleError(f"has a text of {len(raw)} bytes, which is not an array")
        self._push(raw.decode("utf-8", "surrogatepass"))

    def _old_text(self, length: str) -> None:
        """Python 2 wrote bytes as it did text."""
        raw = self._block(length)
        self._push(raw if len(raw) > _LONG_TEXT else raw.decode("latin1"))

    def _long(self, length: str) -> None:
        count = self._number(length)
        if not 0 <= count <= _MAX_NUMBER:
            raise RefusedPickleError(f"has an integer of {count} bytes")
        self._push(int.from_bytes(self._bytes(count), "little", signed=True))

    def _global(self, module: Any, name: Any) -> None:
        if not (isinstance(module, str) and isinstance(name, str)):
            raise DamagedPickleError("a global has no name")
        self._push(self._known(module[:_MAX_NAME], name[:_MAX_NAME]))

    def _call(self) -> None:
        function, arguments = self._take(2)
        if not callable(function) or type(arguments) is not tuple:
            raise DamagedPickleError("it calls something that is not a function")
        self._push(function(*arguments))

    def _build(self) -> None:
        (state,) = self._take(1)
        target = self._stack[-1]
        if type(target) is not dict:  # attributes of an OrderedDict do not matter
            target.build(state)

    def _persist(self, identity: Any) -> None:
        if self._persistent is None:
            raise RefusedPickleError("refers to objects outside the file")
        self._push(self._persistent(identity))

    def _remember(self, index: int) -> None:
        self._memo[index] = self._stack[-1]

    def _import_lines(self) -> None:
        """A class called with what is on the stack: Python before protocol 2."""
        self._known(self._line(), self._line())
        raise RefusedPickleError("has the opcode INST, which files of arrays do not need")


_OPCODES: dict[bytes, Callable[[PickleReader], object]] = {
    b"\x80": lambda r: r._bytes(1),  # PROTO
    b"\x95": lambda r: r._bytes(8),  # FRAME
    b"(": lambda r: r._push(_MARK),
    b"0": lambda r: r._stack.pop(),
    b"1": lambda r: r._since_mark(),  # POP_MARK
    b"2": lambda r: r._push(r._stack[-1]),  # DUP
    b"N": lambda r: r._push(None),
    b"\x88": lambda r: r._push(True),
    b"\x89": lambda r: r._push(False),
    b"J": lambda r: r._push(r._number("<i")),  # BININT, 1, 2
    b"K": lambda r: r._push(r._number("<B")),
    b"M": lambda r: r._push(r._number("<H")),
    b"\x8a": lambda r: r._long("<B"),
    b"\x8b": lambda r: r._long("<i"),
    b"G": lambda r: r._push(r._number(">d")),
    b"U": lambda r: r._old_text("<B"),  # SHORT_BINSTRING, BINSTRING
    b"T": lambda r: r._old_text("<I"),
    b"\x8c": lambda r: r._text("<B"),  # SHORT_BINUNICODE, BINUNICODE, BINUNICODE8
    b"X": lambda r: r._text("<I"),
    b"\x8d": lambda r: r._text("<Q"),
    b"C": lambda r: r._push(r._block("<B")),  # SHORT_BINBYTES, BINBYTES, BINBYTES8, BYTEARRAY8
    b"B": lambda r: r._push(r._block("<I")),
    b"\x8e": lambda r: r._push(r._block("<Q")),
    b"\x96": lambda r: r._push(r._block("<Q")),
    b")": lambda r: r._push(()),
    b"t": lambda r: r._push(tuple(r._since_mark())),
    b"\x85": lambda r: r._push(r._take(1)),
    b"\x86": lambda r: r._push(r._take(2)),
    b"\x87": lambda r: r._push(r._take(3)),
    b"]": lambda r: r._push([]),
    b"a": lambda r: r._extend([*r._take(1)]),
    b"e": lambda r: r._extend(r._since_mark()),
    b"}": lambda r: r._push({}),
    b"s": lambda r: r._set_item(),
    b"u": lambda r: r._set_items(),
    b"\x8f": lambda r: r._push([]),  # EMPTY_SET, ADDITEMS, FROZENSET: only ever metadata
    b"\x90": lambda r: r._extend(r._since_mark()),
    b"\x91": lambda r: r._push(r._since_mark()),
    b"c": lambda r: r._global(r._line(), r._line()),
    b"\x93": lambda r: r._global(*r._take(2)),
    b"R": lambda r: r._call(),
    b"b": lambda r: r._build(),
    b"i": lambda r: r._import_lines(),
    b"Q": lambda r: r._persist(*r._take(1)),
    b"P": lambda r: r._persist(r._line()),
    b"q": lambda r: r._remember(r._number("<B")),  # BINPUT, LONG_BINPUT, MEMOIZE
    b"r": lambda r: r._remember(r._number("<I")),
    b"\x94": lambda r: r._remember(len(r._memo)),
    b"h": lambda r: r._push(r._memo[r._number("<B")]),
    b"j": lambda r: r._push(r._memo[r._number("<I")]),
}
