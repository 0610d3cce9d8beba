"""Weight files: safe reading of .safetensors and .pdparams files, and atomic writing."""

from __future__ import annotations

import json
import math
import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any

import numpy as np
import safetensors

from ppose.utils.errors import PposeError
from ppose.utils.files import atomic_write
from ppose.weights.pickle_reader import DamagedPickleError, RefusedPickleError
from ppose.weights.pickled_arrays import NUMBERS, PickledArray, read_pickled_arrays

_SAFETENSORS = {f"{code[0].upper()}{8 * int(code[1])}": code for code in NUMBERS - {"b1"}}
_SAFETENSORS |= {"BOOL": "b1", "BF16": "u2"}
_METADATA = "__metadata__"  # key of the metadata in the header of a safetensors file
_LONGEST_HEADER = 1 << 23  # bytes of it: 40,000 tensors


class WeightsError(PposeError, ValueError):
    """A weight file cannot be read or does not match the network, which is not changed."""


def read_arrays(path: str | Path) -> dict[str, np.ndarray]:
    """Reads the tensors of a .safetensors file or a pickled Paddle .pdparams file by name.

    The format is detected from the content. A state dict under `model` or `state_dict` is unwrapped
    if it is the only one. Pickles are read without importing anything. bfloat16 is returned as
    float32 from safetensors files, and as its bits in uint16 from Paddle's pickles.

    Raises:
        WeightsError: damaged, another format, or a pickle with other content than arrays.
    """
    path = Path(path)
    with path.open("rb") as file:
        start = _start(file)
        if _is_safetensors(start):
            try:
                arrays, _ = _read_safetensors(path, file)
            except safetensors.SafetensorError as error:
                raise WeightsError(
                    f"{path}: damaged or cut off ({error}); get the file again"
                ) from None
            if not arrays:
                raise WeightsError(f"{path}: contains no tensors")
            return arrays
        if not _is_pickle(start):
            raise WeightsError(f"{path}: {_foreign(path, start)}")
        return _tensors_in(path, _unpickle(path, file))


def read_safetensors(path: str | Path) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    """Reads the tensors of a safetensors file by name, in C order, and its metadata.

    Raises:
        WeightsError: damaged or another format.
    """
    path = Path(path)
    with path.open("rb") as file:
        start = _start(file)
        if not _is_safetensors(start):
            kind = "a pickle, expected a safetensors file" if _is_pickle(start) else ""
            raise WeightsError(f"{path}: {kind or _foreign(path, start)}")
        try:
            return _read_safetensors(path, file)
        except safetensors.SafetensorError as error:
            raise WeightsError(f"{path}: damaged or cut off ({error})") from None


def read_metadata(path: str | Path) -> dict[str, str]:
    """The metadata of a safetensors file; WeightsError for other files."""
    path = Path(path)
    try:
        with path.open("rb") as file:
            return _header(path, file)[1].get(_METADATA) or {}
    except safetensors.SafetensorError as error:
        raise WeightsError(f"{path}: not a complete safetensors file ({error})") from None


def save_arrays(
    path: str | Path, arrays: Mapping[str, np.ndarray], metadata: Mapping[str, str] | None = None
) -> None:
    """Writes a weight file atomically.

    Args:
        path: output file; its folder is created. A .pdparams file is a pickle for `paddle.load` and
            `read_arrays`; any other file is a safetensors file. Equal content gives equal bytes.
        arrays: name → numeric array of any shape and memory layout.
        metadata: strings for the header of a safetensors file; see `read_metadata`.

    Raises:
        TypeError: an array is not numeric.
        ValueError: metadata for a .pdparams file, which does not support it, or a tensor name
            that safetensors does not support.
    """
    pickled = Path(path).suffix == ".pdparams"
    if pickled and metadata:
        raise ValueError(f"{path}: a .pdparams file has no metadata; write a .safetensors file")
    plain = little_endian_arrays(arrays)
    with atomic_write(path) as partial, partial.open("wb") as file:
        if pickled:
            pickle.dump(plain, file, protocol=4)  # the protocol of paddle.save
        else:
            _write_safetensors(file, plain, dict(metadata or {}))


def little_endian_arrays(arrays: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Converts arrays to C order and little-endian, with copies only where needed.

    bfloat16, which NumPy does not have, stays as its bits in uint16. TypeError if not numeric.
    """
    plain = {}
    for name, array in arrays.items():
        dtype = np.asarray(array).dtype
        if dtype.str[1:] not in NUMBERS:
            raise TypeError(f"'{name}' has dtype {dtype}, expected numbers")
        plain[name] = np.asarray(array, dtype=dtype.newbyteorder("<"), order="C")
    return plain


def _unpickle(path: Path, file: IO[bytes]) -> object:
    try:
        return read_pickled_arrays(file)
    except RefusedPickleError as error:
        raise WeightsError(f"{path}: {error}") from None
    except DamagedPickleError as error:
        raise WeightsError(f"{path}: damaged or cut off ({error}); get the file again") from None


def _tensors_in(path: Path, found: object, depth: int = 0) -> dict[str, np.ndarray]:
    """The state dict in the content of a pickle."""
    if not isinstance(found, dict):
        raise WeightsError(f"{path}: contains a {_kind(found)}, expected a dict of name → array")
    entries = {k: _unwrapped(v) for k, v in found.items() if k != "StructuredToParameterName@@"}
    states = {k: v for k, v in entries.items() if isinstance(v, dict)}
    if not any(isinstance(v, np.ndarray) for v in entries.values()) and depth < 2:
        named = [k for k in ("model", "state_dict") if k in states]
        rivals = [k for k in states if k not in named and "ema" in str(k).lower()]
        if len(named) == 1 and not rivals:
            return _tensors_in(path, states[named[0]], depth + 1)
        if states:
            raise WeightsError(
                f"{path}: cannot tell which of its state dicts is the network's: "
                f"{', '.join(map(repr, states))}; save that one alone"
            )
    if not entries:
        raise WeightsError(f"{path}: contains no tensors")
    for name, value in entries.items():
        if not isinstance(name, str) or not isinstance(value, np.ndarray):
            raise WeightsError(f"{path}: entry {name!r} is a {_kind(value)}, expected an array")
    return entries  # type: ignore[return-value]


def _unwrapped(value: object) -> object:
    """The array of an entry; paddle.save writes a single tensor as (name, array)."""
    if isinstance(value, tuple) and len(value) == 2 and isinstance(value[0], str):
        value = value[1]
    return value.value if isinstance(value, PickledArray) and value.value is not None else value


def _kind(value: object) -> str:
    return "array without content" if isinstance(value, PickledArray) else type(value).__name__


def _start(file: IO[bytes]) -> bytes:
    start = file.read(64)
    file.seek(0)
    return start


def _is_safetensors(start: bytes) -> bool:
    """Whether a file starts with a 64-bit header length, limited to 40 bits, and JSON."""
    return start[8:9] == b"{" and start[5:8] == b"\0\0\0"


def _write_safetensors(
    file: IO[bytes], arrays: dict[str, np.ndarray], metadata: dict[str, str]
) -> None:
    """Own writer, as the library copies all arrays or creates files only the owner can read."""
    if _METADATA in arrays:
        raise ValueError(f"a safetensors file cannot have an array named '{_METADATA}'")
    # Sorted by item size, so that each array is aligned.
    names = sorted(arrays, key=lambda name: (-arrays[name].itemsize, name))
    codes = {code: kind for kind, code in _SAFETENSORS.items() if kind != "BF16"}
    header: dict[str, Any] = {_METADATA: metadata} if metadata else {}
    end = 0
    for name in names:
        array = arrays[name]
        begin, end = end, end + array.nbytes
        kind = codes[array.dtype.str[1:]]
        header[name] = {"dtype": kind, "shape": array.shape, "data_offsets": (begin, end)}
    text = json.dumps(header, ensure_ascii=False, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    file.write(len(text).to_bytes(8, "little") + text)
    for name in names:
        file.write(arrays[name].reshape(-1).data)


def _read_safetensors(path: Path, file: IO[bytes]) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    """Reads directly into the arrays, without a copy; the library validates the header.

    Raises:
        safetensors.SafetensorError: not a complete safetensors file.
        WeightsError: a dtype without a counterpart in NumPy.
    """
    length, header = _header(path, file)
    metadata = header.pop(_METADATA, None) or {}
    arrays = {}
    for name, entry in sorted(header.items()):
        if entry["dtype"] not in _SAFETENSORS:
            raise WeightsError(f"{path}: '{name}' has the dtype {entry['dtype']}, not supported")
        flat = np.empty(math.prod(entry["shape"]), "<" + _SAFETENSORS[entry["dtype"]])
        file.seek(8 + length + entry["data_offsets"][0])
        if file.readinto(flat.data) != flat.nbytes:  # type: ignore[attr-defined]
            raise safetensors.SafetensorError(f"'{name}' is truncated")
        try:
            array = flat.reshape(entry["shape"])
        except ValueError as error:
            raise WeightsError(f"{path}: damaged, '{name}' has no shape ({error})") from None
        arrays[name] = from_bfloat16(array) if entry["dtype"] == "BF16" else array
    return arrays, metadata


def _header(path: Path, file: IO[bytes]) -> tuple[int, dict[str, Any]]:
    """The length of the header and its content, which the library has validated."""
    length = int.from_bytes(file.read(8), "little")
    if length > _LONGEST_HEADER:
        raise WeightsError(f"{path}: damaged, its header has {length} bytes")
    with safetensors.safe_open(path, framework="np"):
        return length, json.loads(file.read(length), object_pairs_hook=_once)


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise safetensors.SafetensorError("its header has a name twice")
    return found


_FOREIGN = (
    (b"PK\x03\x04", "a zip archive or a PyTorch checkpoint: convert it with `ppose convert`"),
    (
        b"\x80\x02\x8a\x0a\x6c\xfc\x9c\x46",
        "an old PyTorch checkpoint: convert it with `ppose convert`",
    ),
    (b"\xff\xd8\xff", "a JPEG image"),
    (b"\x89PNG", "a PNG image"),
    (b"\x1f\x8b", "gzip-compressed: unpack it"),
    (b"\x89HDF", "an HDF5 file"),
    (b"version https://git-lfs", "a Git LFS pointer: run 'git lfs pull'"),
    (b"<", "a web page or XML: the download failed, or the URL is not that of the file"),
    (b"{", "JSON"),
)


def _is_pickle(start: bytes) -> bool:
    old_torch = start.startswith(_FOREIGN[1][0])
    return start[:1] == b"\x80" and start[1:2] in (b"\2", b"\3", b"\4", b"\5") and not old_torch


def _foreign(path: Path, start: bytes) -> str:
    """Describes a file that is neither safetensors nor a pickle, from its first bytes."""
    if not start:
        return "the file is empty"
    text = start.removeprefix(b"\xef\xbb\xbf").lstrip()
    kind = next((what for magic, what in _FOREIGN if text.startswith(magic)), None)
    if kind is None:
        kind = f"of unknown kind (begins with {start[:8]!r})"
        if path.suffix == ".pdiparams":
            kind = "the data of an exported model: use the .pdparams file of the training run"
    return f"not a file of weights, but {kind}"


def from_bfloat16(bits: np.ndarray) -> np.ndarray:
    """float32 from the bits of bfloat16, which are the upper half of a float32."""
    wide = bits.astype(np.uint32)
    wide <<= 16
    return wide.view(np.float32)


def float32(name: str, array: np.ndarray) -> np.ndarray:
    """Casts floating point, or bfloat16 as its bits, to float32; WeightsError if not finite."""
    if array.dtype == np.uint16:
        array = from_bfloat16(array)
    if array.dtype.kind != "f":
        raise WeightsError(f"'{name}' is {array.dtype}, expected floating point")
    with np.errstate(over="ignore"):
        array = np.ascontiguousarray(array, np.float32)
    if not np.isfinite(array).all():
        count = np.count_nonzero(~np.isfinite(array))
        raise WeightsError(f"{count} of {array.size} values of '{name}' are not finite")
    return array
