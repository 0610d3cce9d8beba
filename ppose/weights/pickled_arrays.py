"""NumPy arrays in pickles, as `paddle.save` and `pickle` write them."""

from __future__ import annotations

import math
import os
from typing import IO, Any

import numpy as np

from ppose.weights.pickle_reader import DamagedPickleError, PickleReader, RefusedPickleError

NUMBERS = {"b1", "f2", "f4", "f8", "i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8"}
MAX_DIMENSIONS = 64  # of NumPy


def read_pickled_arrays(file: IO[bytes]) -> object:
    """The content of a pickle of arrays, numbers, text and plain containers; arrays are
    `PickledArray`.

    Takes at most seconds, and the memory of the file twice and 100 MB.

    Raises:
        RefusedPickleError: other content.
        DamagedPickleError: damaged or cut off.
    """
    stand_ins = _StandIns(os.fstat(file.fileno()).st_size)
    reader = PickleReader(file, stand_ins.known)
    stand_ins.table["collections", "OrderedDict"] = reader.dict_of
    for builtins in ("builtins", "__builtin__"):
        stand_ins.table[builtins, "dict"] = reader.dict_of
    return reader.read()


class _Dtype:
    """Stands for numpy.dtype; numeric dtypes only."""

    def __init__(self, code: object, *_: object):
        if not isinstance(code, str) or code not in NUMBERS:
            shown = f"{code[:20]!r}" if isinstance(code, str) else f"a {type(code).__name__}"
            raise RefusedPickleError(f"contains an array of dtype {shown}, expected numbers")
        self.value = np.dtype(code)

    def build(self, state: tuple) -> None:
        if state[1] not in ("<", ">", "=", "|"):
            raise DamagedPickleError("a dtype has no byte order")
        self.value = self.value.newbyteorder(state[1])


class PickledArray:
    """Stands for numpy.ndarray; `value` is None until its content is set.

    Args:
        allowance: counts the bytes of all arrays of a file, as many can share their content.
    """

    def __init__(self, allowance: Allowance) -> None:
        self.allowance = allowance
        self.value: np.ndarray | None = None

    def build(self, state: tuple) -> None:
        shape, dtype, fortran, content = state[-4:]
        self.fill(content, dtype, shape, "F" if fortran else "C")

    def fill(self, content: object, dtype: object, shape: Any, order: Any) -> PickledArray:
        # Protocol 2 writes bytes as text, which Python 2 has as Latin-1 too.
        content = content.encode("latin1") if isinstance(content, str) else content
        if not isinstance(dtype, _Dtype) or not isinstance(content, bytes):
            raise RefusedPickleError("contains an array that is not plain numbers")
        check_shape(shape)
        if math.prod(shape) * dtype.value.itemsize != len(content):
            raise DamagedPickleError(
                f"an array of shape {shape} and {dtype.value} has {len(content)} bytes"
            )
        self.allowance.take(len(content))
        stored = np.frombuffer(content, dtype.value).reshape(shape, order=order)
        self.value = stored.astype(dtype.value.newbyteorder("="), order="C")
        return self


def check_shape(shape: object) -> None:
    """DamagedPickleError unless it is a shape that an array can have."""
    if (
        not isinstance(shape, tuple)
        or len(shape) > MAX_DIMENSIONS
        or not all(type(side) is int and 0 <= side < 1 << 62 for side in shape)
    ):
        raise DamagedPickleError("an array has no shape")


class Allowance:
    """Bytes that the arrays of a file may have together: no more than the file has."""

    def __init__(self, size: int):
        self.size = self.left = size

    def take(self, count: int) -> None:
        self.left -= count
        if self.left < 0:
            raise RefusedPickleError(f"contains arrays of more than its {self.size} bytes")


class _StandIns:
    """What stands for the globals that a pickle of arrays may use."""

    def __init__(self, size: int):
        allowance = Allowance(size)
        ndarray = object()

        def reconstruct(cls: object, *_: object) -> PickledArray:
            if cls is not ndarray:
                raise RefusedPickleError("creates an array of another class than numpy.ndarray")
            return PickledArray(allowance)

        def frombuffer(content: object, dtype: object, shape: object, order: str) -> PickledArray:
            if order not in ("C", "F"):
                raise DamagedPickleError("an array has no order")
            return PickledArray(allowance).fill(content, dtype, shape, order)

        def scalar(dtype: object, content: object) -> float:
            filled = PickledArray(allowance).fill(content, dtype, (), "C")
            return filled.value.item()  # type: ignore[union-attr]

        self.table: dict[tuple[str, str], object] = {
            ("numpy", "ndarray"): ndarray,
            ("numpy", "dtype"): _Dtype,
            ("_codecs", "encode"): _encode,
        }
        for core in ("numpy.core", "numpy._core"):
            self.table[f"{core}.multiarray", "_reconstruct"] = reconstruct
            self.table[f"{core}.multiarray", "scalar"] = scalar
            self.table[f"{core}.numeric", "_frombuffer"] = frombuffer
        for builtins in ("builtins", "__builtin__"):
            self.table[builtins, "tuple"] = _same_tuple  # how paddle.save writes a tensor
            self.table[builtins, "bytes"] = _no_bytes  # how protocol 2 writes empty ones

    def known(self, module: str, name: str) -> object:
        if (module, name) not in self.table:
            raise RefusedPickleError(
                f"imports {f'{module}.{name}'!r}, which could run arbitrary code. Weight files "
                "need only arrays, numbers, text and plain containers: this file is not safe, or "
                "not a weight file"
            )
        return self.table[module, name]


def _encode(text: str, encoding: str) -> bytes:
    """How protocol 2 writes bytes."""
    if encoding != "latin1":
        raise RefusedPickleError(f"encodes text as {encoding[:20]!r}, expected 'latin1'")
    return text.encode("latin1")


def _same_tuple(items: tuple) -> tuple:
    if not isinstance(items, tuple):
        raise DamagedPickleError("a tuple of something that is not one")
    return items


def _no_bytes() -> bytes:
    return b""
