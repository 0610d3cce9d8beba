"""Safe reading of PyTorch checkpoints, without PyTorch and without running anything.

`torch.load(weights_only=True)` runs no code either, but a file of a few bytes can make it crash or
take all memory: nested keys, compressed storages, arguments of the classes that it allows.
"""

from __future__ import annotations

import io
import math
import sys
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Protocol

import numpy as np

from ppose.weights.pickle_reader import DamagedPickleError, PickleReader, RefusedPickleError
from ppose.weights.pickled_arrays import Allowance, check_shape
from ppose.weights.weight_file import WeightsError, read_arrays

_ZIP = b"PK\x03\x04"
_OLD = b"\x80\x02\x8a\x0a\x6c\xfc\x9c\x46"  # before PyTorch 1.6
_OLD_PROTOCOL = 1001
# Usual keys of the network's state dict, in order of preference.
_STATE_KEYS = ("state_dict", "weights", "model_state_dict", "model")
_WRAPPER = "module."
# Number of averaged models in `torch.optim.swa_utils.AveragedModel`.
AVERAGED = "n_averaged"
_LONGEST_DIRECTORY = 1 << 24  # bytes of a zip archive's list of files: 100,000 tensors
# bfloat16 as its bits, because NumPy does not have it.
_STORAGES = {
    **{"Double": "f8", "Float": "f4", "Half": "f2", "BFloat16": "u2", "Bool": "b1"},
    **{"Long": "i8", "Int": "i4", "Short": "i2", "Char": "i1", "Byte": "u1"},
    **{"ComplexDouble": "c16", "ComplexFloat": "c8"},
}
# Metadata that checkpoints have, none of which is used.
_METADATA = {
    *("_codecs.encode", "builtins.bytearray", "builtins.complex", "builtins.set"),
    *("__builtin__.bytearray", "__builtin__.complex", "__builtin__.set"),
    *("numpy.ndarray", "numpy.dtype", "torch.device", "torch.serialization._get_layout"),
    *(f"numpy.{core}.multiarray._reconstruct" for core in ("core", "_core")),
    *(f"numpy.{core}.multiarray.scalar" for core in ("core", "_core")),
}
# The beginnings of PyTorch's constants for dtypes and kinds of quantization.
_CONSTANTS = (
    *("float", "bfloat", "double", "half", "int", "uint", "long", "short", "bool", "complex"),
    *("qint", "quint", "per_tensor_", "per_channel_"),
)


@dataclass(frozen=True)
class Checkpoint:
    """The state dict in a checkpoint file.

    Attributes:
        arrays: name without the `module.` of DataParallel → array; bfloat16 as its bits in uint16.
        key: key of the state dict in the file; "" if the file is the state dict.
        other_keys: the other keys in the file.
    """

    arrays: Mapping[str, np.ndarray]
    key: str = ""
    other_keys: tuple[str, ...] = ()


def read_checkpoint(path: str | Path, key: str | None = None) -> Checkpoint:
    """Reads the state dict of a PyTorch file or a .safetensors file, detected from its content.

    Takes at most seconds besides reading, and the memory of the file twice and 100 MB.

    Args:
        path: the file.
        key: key of the state dict in the file; None for the usual ones.

    Raises:
        FileNotFoundError: the file does not exist.
        WeightsError: damaged, no weights, a pickle that needs to import code, or a missing key.
    """
    path = Path(path)
    with path.open("rb") as file:
        start = file.read(len(_OLD))
        file.seek(0)
        if start.startswith((_ZIP, _OLD)):
            return _read_torch(path, file, key, _ZipFile if start.startswith(_ZIP) else _OldFile)
    if key is not None:
        raise WeightsError(f"{path} has no keys to choose from; leave out --key {key}")
    return Checkpoint(_unwrapped(read_arrays(path)))


def _read_torch(
    path: Path, file: IO[bytes], key: str | None, kind: type[_ZipFile] | type[_OldFile]
) -> Checkpoint:
    try:
        source = kind(file, path.stat().st_size)
        content = source.content
        key, state = _state(path, content, key)
        arrays = _Arrays(source, path.stat().st_size)
        found = {name: arrays.of(path, name, value) for name, value in state.items()}
    except RefusedPickleError as error:
        raise WeightsError(
            f"{path}: {error}. Weights need only tensors. If you trust the file, save them alone "
            "where it was made: "
            "torch.save(torch.load(IN, weights_only=False)['state_dict'], OUT)"
        ) from None
    except WeightsError:
        raise
    except Exception as error:  # a damaged archive can raise nearly anything
        raise WeightsError(
            f"{path}: damaged, cut off or not a checkpoint ({error}); get the file again"
        ) from None
    other_keys = tuple(str(k) for k in content if k != key) if key else ()
    return Checkpoint(_unwrapped(found), key, other_keys)


@dataclass(frozen=True)
class _Storage:
    """Part of the numbers in a file.

    Attributes:
        dtype: NumPy's code.
        key: name in the file.
        count: numbers that are in the file under this name.
        start, length: which of them belong to the storage.
    """

    dtype: np.dtype
    key: str
    count: int
    start: int
    length: int


@dataclass(frozen=True)
class Tensor:
    """A tensor as it is stored: `size` and `stride` in numbers, from `offset` of its storage."""

    storage: _Storage
    offset: int
    size: tuple[int, ...]
    stride: tuple[int, ...]

    def build(self, state: object) -> None:
        """Attributes of a tensor do not matter."""


@dataclass(frozen=True)
class _OddTensor:
    """A tensor that is not stored plainly; `kind` is the function that makes it."""

    kind: str

    def build(self, state: object) -> None:
        """Is never used."""


class _Metadata:
    """Stands for an object that is not used."""

    def build(self, state: object) -> None:
        """Is not used either."""


class _Source(Protocol):
    content: Any

    def numbers(self, storage: _Storage) -> np.ndarray:
        """All numbers of the file that have the key of a storage, 1-D."""


class _Pickles:
    """Reads the objects of a checkpoint; tensors as `Tensor`, other classes are refused.

    Attributes:
        storages: that the objects refer to, by key.
    """

    def __init__(self, file: IO[bytes], size: int):
        self.storages: dict[str, _Storage] = {}
        keys = (str, int, float, bool)
        self._reader = PickleReader(file, self._known, keys, self._storage, size)

    def read(self) -> Any:
        return self._reader.read()

    def _known(self, module: str, name: str) -> Any:
        kind = name.removesuffix("Storage")
        if module in ("torch", "torch.cuda", "torch.storage") and kind != name:
            return np.dtype(_STORAGES.get(kind, "V1"))  # of quantized tensors
        if module == "torch._utils" and name.startswith("_rebuild_"):
            return _REBUILD.get(name, lambda *_: _OddTensor(name))
        if (module, name) in (("collections", "OrderedDict"), ("collections", "Counter")):
            return self._reader.dict_of
        if (module, name) == ("torch", "Size"):
            return lambda size=(): size
        if f"{module}.{name}" in _METADATA:
            return lambda *_: _Metadata()
        if module == "torch" and name.startswith(_CONSTANTS):
            return _Metadata()
        raise RefusedPickleError(
            f"imports {f'{module}.{name}'!r}, which is refused, as it could run arbitrary code"
        )

    def _storage(self, identity: Any) -> _Storage:
        kind, dtype, key, _, count, *view = identity
        if kind != "storage" or not isinstance(dtype, np.dtype) or not isinstance(key, str):
            raise DamagedPickleError("a storage is not described")
        _check_natural(count)
        start, length = 0, count
        if view and view[0] is not None:
            _, start, length = view[0]
            _check_natural(start, length)
        if start + length > count:
            raise DamagedPickleError("a storage is larger than what it is part of")
        storage = _Storage(dtype, key, count, start, length)
        before = self.storages.setdefault(key, storage)
        if (before.dtype, before.count) != (dtype, count):
            raise DamagedPickleError(f"the storage {key[:40]!r} is described in two ways")
        return storage


def _check_natural(*numbers: object) -> None:
    if not all(type(number) is int and 0 <= number < 1 << 62 for number in numbers):
        raise DamagedPickleError("a size or an offset is not a natural number")


def _rebuild_tensor(storage: Any, offset: Any, size: Any, stride: Any, *_: object) -> Tensor:
    _check_natural(offset)
    check_shape(size)
    check_shape(stride)
    if not isinstance(storage, _Storage) or len(size) != len(stride):
        raise DamagedPickleError("a tensor is not described")
    return Tensor(storage, offset, size, stride)


def _rebuild_parameter(tensor: Any, *_: object) -> Any:
    return tensor


_REBUILD = {
    "_rebuild_tensor": _rebuild_tensor,
    "_rebuild_tensor_v2": _rebuild_tensor,
    "_rebuild_parameter": _rebuild_parameter,
    "_rebuild_parameter_with_state": _rebuild_parameter,
}


class _ZipFile:
    """A checkpoint of PyTorch 1.6 or later: a zip archive with a file for each storage."""

    def __init__(self, file: IO[bytes], size: int):
        _check_directory(file, size)
        self._allowance = Allowance(size)
        self._archive = zipfile.ZipFile(file)
        names = self._archive.namelist()
        data = next((name for name in names if name.endswith("data.pkl")), "")
        self._folder = data.removesuffix("data.pkl")
        if f"{self._folder}constants.pkl" in names:
            raise DamagedPickleError("it is a TorchScript program, not a state_dict")
        if not data:
            raise DamagedPickleError("the archive has no data.pkl")
        if (
            f"{self._folder}byteorder" in names
            and self._file("byteorder") != sys.byteorder.encode()
        ):
            raise DamagedPickleError(f"its numbers are not {sys.byteorder}-endian")
        pickled = self._file("data.pkl")
        self.content = _Pickles(io.BytesIO(pickled), len(pickled)).read()

    def numbers(self, storage: _Storage) -> np.ndarray:
        raw = self._file(f"data/{storage.key}")
        if len(raw) != storage.count * storage.dtype.itemsize:
            raise DamagedPickleError(f"the storage {storage.key[:40]!r} has {len(raw)} bytes")
        return np.frombuffer(raw, storage.dtype)

    def _file(self, name: str) -> bytearray:
        info = self._archive.getinfo(self._folder + name)
        if info.compress_type != zipfile.ZIP_STORED:
            raise DamagedPickleError(f"{name[:40]!r} is compressed, which PyTorch does not do")
        self._allowance.take(info.file_size)
        content = bytearray(info.file_size)
        with self._archive.open(info) as file:
            if file.readinto(content) != len(content):  # type: ignore[attr-defined]
                raise DamagedPickleError(f"{name[:40]!r} is cut off")
        return content


def _check_directory(file: IO[bytes], size: int) -> None:
    """Refuses a list of files that would take too much memory; see the format of zip archives."""
    file.seek(-min(size, 98), io.SEEK_END)
    end = file.read()
    length = int.from_bytes(end[-10:-6], "little")
    if end[-42:-38] == b"PK\x06\x07":
        length = int.from_bytes(end[40:48], "little")
    if end[-22:-18] != b"PK\x05\x06" or length > _LONGEST_DIRECTORY:
        raise DamagedPickleError("the archive has no list of files")
    file.seek(0)


class _OldFile:
    """A checkpoint before PyTorch 1.6: pickles, then the storages."""

    def __init__(self, file: IO[bytes], size: int):
        self._file, self._allowance = file, Allowance(size)
        pickles = _Pickles(file, size)
        pickles.read()  # the magic number
        if pickles.read() != _OLD_PROTOCOL:
            raise DamagedPickleError("it has another version of PyTorch's format")
        if pickles.read().get("little_endian") is not (sys.byteorder == "little"):
            raise DamagedPickleError(f"its numbers are not {sys.byteorder}-endian")
        self.content = pickles.read()
        self._offsets: dict[str, int] = {}
        offset = 0
        keys = pickles.read()
        offset = file.tell()
        for key in keys:
            storage = pickles.storages[key]
            file.seek(offset)
            if int.from_bytes(file.read(8), "little") != storage.count:
                raise DamagedPickleError(f"the storage {key[:40]!r} has another size")
            self._offsets[key] = offset + 8
            offset += 8 + storage.count * storage.dtype.itemsize
        if offset > size:
            raise DamagedPickleError("it is cut off")

    def numbers(self, storage: _Storage) -> np.ndarray:
        count = storage.count * storage.dtype.itemsize
        self._allowance.take(count)
        self._file.seek(self._offsets[storage.key])
        content = bytearray(count)
        self._file.readinto(content)  # type: ignore[attr-defined]
        return np.frombuffer(content, storage.dtype)


class _Arrays:
    """Arrays of tensors; tensors that share numbers do so still.

    Args:
        source: of the numbers.
        size: bytes of the file; all arrays together may have twice as many.
    """

    def __init__(self, source: _Source, size: int):
        self._source = source
        self._numbers: dict[str, np.ndarray] = {}
        self._allowance = Allowance(2 * size)

    def of(self, path: Path, name: object, value: Any) -> np.ndarray:
        if not isinstance(name, str) or not isinstance(value, Tensor | _OddTensor):
            raise WeightsError(
                f"{path}: entry {name!r} is a {type(value).__name__}, expected a tensor"
            )
        if isinstance(value, _OddTensor):
            raise WeightsError(f"{path}: '{name}' is not a plain tensor ({value.kind})")
        storage, size = value.storage, value.size
        count = math.prod(size)
        if count > storage.length:  # a small file could allocate any amount of memory
            raise WeightsError(
                f"{path}: '{name}' is an expanded tensor, expected all values stored"
            )
        self._allowance.take(count * storage.dtype.itemsize)
        if storage.key not in self._numbers:
            self._numbers[storage.key] = self._source.numbers(storage)
        numbers = self._numbers[storage.key][storage.start : storage.start + storage.length]
        last = value.offset + sum((n - 1) * s for n, s in zip(size, value.stride, strict=True))
        if count and last >= storage.length:
            raise DamagedPickleError(f"'{name[:40]}' goes beyond its storage")
        if not count:
            return np.empty(size, storage.dtype)
        strides = [step * storage.dtype.itemsize for step in value.stride]
        view = np.lib.stride_tricks.as_strided(numbers[value.offset :], size, strides)
        return np.ascontiguousarray(view).reshape(size)  # the former makes a scalar 1-D


def _state(path: Path, content: Any, key: str | None) -> tuple[str, Mapping[Any, Any]]:
    """The key of the state dict in the loaded content, and the state dict."""

    def is_state(value: object) -> bool:
        return isinstance(value, Mapping) and any(
            isinstance(entry, Tensor | _OddTensor) for entry in value.values()
        )

    if not isinstance(content, Mapping):
        raise WeightsError(f"{path}: contains a {type(content).__name__}, expected a state_dict")
    states = [k for k, value in content.items() if is_state(value)]
    if key is not None:
        if key not in states:
            known = ", ".join(map(repr, states)) or "none"
            raise WeightsError(f"{path}: no tensors under '{key}'; keys with tensors: {known}")
        return key, content[key]
    usual = next((k for k in _STATE_KEYS if k in states), None)
    if usual is not None:
        return usual, content[usual]
    if is_state(content):
        return "", content
    if len(states) == 1:
        return states[0], content[states[0]]
    if states:
        raise WeightsError(
            f"{path}: contains tensors under {', '.join(map(repr, states))}; choose one with --key"
        )
    raise WeightsError(f"{path}: contains no tensors; its keys: {', '.join(map(str, content))}")


def _unwrapped(arrays: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Removes the prefix `module.` of (Distributed)DataParallel and AveragedModel."""
    names = {name: name for name in arrays}
    while all(n.startswith(_WRAPPER) or n == AVERAGED for n in names.values()):
        names = {name: n.removeprefix(_WRAPPER) for name, n in names.items()}
    return {n: arrays[name] for name, n in names.items()}
