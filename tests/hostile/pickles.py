"""Pickles of arrays, PyTorch's checkpoints, safetensors."""

from __future__ import annotations

import io
import json
import pickle
import random
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import safetensors.numpy

from hostile.harness import Reader
from ppose.convert.torch_file import read_checkpoint
from ppose.weights.weight_file import read_arrays

_NUMBERS = (0, 1, 2, 3, 255, 256, 65535, 2**31 - 1, 2**31, 2**32 - 1, 2**62, 2**63, 2**64 - 1)
_NUMPY = (
    b"cnumpy\nndarray\n",
    b"cnumpy\ndtype\n",
    b"cnumpy.core.multiarray\n_reconstruct\n",
    b"cnumpy._core.multiarray\nscalar\n",
    b"cnumpy._core.numeric\n_frombuffer\n",
    b"c_codecs\nencode\n",
    b"ccollections\nOrderedDict\n",
    *(b"cbuiltins\n%b\n" % name for name in (b"tuple", b"dict", b"bytes", b"bytearray", b"eval")),
    b"cos\nsystem\n",
)
_TORCH = (
    b"ctorch._utils\n_rebuild_tensor_v2\n",
    b"ctorch._utils\n_rebuild_parameter\n",
    b"ctorch._utils\n_rebuild_sparse_tensor\n",
    b"ctorch\nFloatStorage\n",
    b"ctorch\nBFloat16Storage\n",
    b"ctorch\nSize\n",
    b"ctorch\nTensor\n",
    b"ctorch\nfloat32\n",
    *_NUMPY,
)


def _text(rng: random.Random) -> bytes:
    kind = rng.randrange(8)
    raw = b"abc" if kind < 5 else rng.randbytes(9) if kind == 5 else b"\x1b[31m\xc3\xa9"
    raw = raw * rng.choice((1, 1, 1, 1, 1000, 100_000)) if kind == 7 else raw
    length = len(raw) if rng.random() < 0.97 else rng.choice(_NUMBERS) % 2**32
    return rng.choice((b"X", b"X", b"T", b"B")) + length.to_bytes(4, "little") + raw


def _integer(rng: random.Random) -> bytes:
    if rng.random() < 0.6:
        return b"K" + bytes([rng.randrange(6)])
    if rng.random() < 0.1:
        count = rng.choice((200, 100_000))
        return b"\x8b" + count.to_bytes(4, "little") + b"\x7f" * count
    return b"\x8a\x09" + rng.choice(_NUMBERS).to_bytes(9, "little", signed=True)


def _value(rng: random.Random, known: tuple[bytes, ...], depth: int = 0) -> bytes:
    """Opcodes of one value, most of them valid."""

    def inner() -> bytes:
        return _value(rng, known, depth + 1)

    if depth > 5:
        return _integer(rng)
    key: Callable[[], bytes] = lambda: _text(rng) if rng.random() < 0.9 else inner()  # noqa: E731
    kinds: tuple[Callable[[], bytes], ...] = (
        lambda: _text(rng),
        lambda: _integer(rng),
        lambda: rng.choice((b"N", b"\x88", b"\x89", b"G" + rng.randbytes(8))),
        lambda: b"(" + b"".join(inner() for _ in range(rng.randrange(4))) + b"t",
        lambda: b"](" + b"".join(inner() for _ in range(rng.randrange(4))) + b"e",
        lambda: b"}(" + b"".join(key() + inner() for _ in range(rng.randrange(4))) + b"u",
        lambda: (
            rng.choice(known) + b"(" + b"".join(inner() for _ in range(rng.randrange(6))) + b"tR"
        ),
        lambda: inner() + inner() + b"b",
        lambda: inner() + rng.choice((b"q\0", b"q\1", b"\x94", b"r\xff\xff\xff\xff")),
        lambda: rng.choice((b"h\0", b"h\1", b"2", b"0", b"Q", b"j\0\0\0\0")),
        lambda: (
            b")" + rng.choice((b"\x85", b"2\x86", b"q\0h\0\x86")) * rng.choice((3, 40, 100_000))
        ),
        lambda: rng.choice(known),
        lambda: _array(rng),
        lambda: _tensor(rng) if known is _TORCH else _array(rng),
    )
    return rng.choice(kinds)()


def _array(rng: random.Random) -> bytes:
    """An array with a shape, dtype and content that may contradict each other."""
    code = rng.choice((b"f4", b"u1", b"f8", b"O8", b"i2", b"V9"))
    shape = b"(" + b"".join(_integer(rng) for _ in range(rng.choice((0, 1, 1, 2, 70)))) + b"t"
    raw = bytes(rng.choice((0, 1, 4, 8, 24)))
    state = b"(K\1" + shape + b"cnumpy\ndtype\nX\2\0\0\0" + code + b"\x85R\x89"
    state += b"B" + len(raw).to_bytes(4, "little") + raw + b"t"
    return b"cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\0\x85C\1b\x87R" + state + b"b"


def _whole_array(rng: random.Random) -> bytes:
    return pickle.dumps(np.ones(rng.randrange(4), "f4"), 2)[2:-1]


def _whole_tensor(rng: random.Random) -> bytes:
    """A tensor that fits a storage of 16 bytes."""
    storage = b"(X\7\0\0\0storagectorch\nFloatStorage\nX\1\0\0\0000X\3\0\0\0cpuK\4tQ"
    size = rng.choice((b"K\2K\2\x86K\2K\1\x86", b"K\4\x85K\1\x85", b"))", b"K\0\x85K\1\x85"))
    return b"ctorch._utils\n_rebuild_tensor_v2\n(" + storage + b"K\0" + size + b"\x89}tR"


def _tensor(rng: random.Random) -> bytes:
    """A tensor of the storage 0, 1 or 2, whose numbers may contradict each other."""

    def numbers() -> bytes:
        return b"(" + b"".join(_integer(rng) for _ in range(rng.choice((0, 1, 1, 2, 70)))) + b"t"

    kind = rng.choice((b"Float", b"Half", b"QInt8", b"Long"))
    storage = b"(X\7\0\0\0storagectorch\n%bStorage\nX\1\0\0\0%bX\3\0\0\0cpu" % (
        kind,
        rng.choice((b"0", b"1", b"2")),
    )
    view = rng.choice((b"", b"", b"N", numbers()))
    made = b"ctorch._utils\n_rebuild_tensor_v2\n(" + storage + _integer(rng) + view + b"tQ"
    return made + _integer(rng) + numbers() + numbers() + b"\x89}tR"


def _pickle(rng: random.Random, known: tuple[bytes, ...]) -> bytes:
    if rng.random() < 0.1:
        return b"\x80\x02" + rng.randbytes(rng.randrange(200))
    whole = _whole_tensor if known is _TORCH else _whole_array
    entries = b"".join(
        b"X\1\0\0\0%d" % i + whole(rng) if rng.random() < 0.6 else _text(rng) + _value(rng, known)
        for i in range(rng.randrange(1, 4))
    )
    return b"\x80" + bytes([rng.choice((2, 4, 5))]) + b"}(" + entries + b"u."


def _mutated(rng: random.Random, content: bytes) -> bytes:
    changed = bytearray(content)
    for _ in range(rng.randrange(1, 6)):
        at = rng.randrange(len(changed))
        kind = rng.randrange(4)
        if kind == 0:
            changed[at] = rng.randrange(256)
        elif kind == 1:
            changed[at : at + rng.randrange(9)] = rng.choice((b"\xff", b"\0")) * rng.randrange(9)
        elif kind == 2:
            changed[at:at] = changed[at : at + rng.randrange(40)] * rng.choice((1, 2, 50))
        elif len(changed) > 99:
            del changed[at : at + rng.randrange(30)]
    return bytes(changed)


def _pdparams(rng: random.Random) -> bytes:
    if rng.random() < 0.6:
        return _pickle(rng, _NUMPY)
    whole = {"a": np.ones((2, 3), "f4"), "b": np.arange(5), "model": {"c": np.float32(2)}}
    return _mutated(rng, pickle.dumps(whole, rng.randrange(2, 6)))


def _zip(rng: random.Random) -> bytes:
    buffer = io.BytesIO()
    compression = zipfile.ZIP_DEFLATED if rng.random() < 0.1 else zipfile.ZIP_STORED
    with zipfile.ZipFile(buffer, "w", compression) as made:
        made.writestr("a/data.pkl", _pickle(rng, _TORCH))
        for name in "012"[: rng.randrange(4)]:
            made.writestr(f"a/data/{name}", bytes(rng.choice((16, 16, 16, 0, 3, 24, 100_000))))
        if rng.random() < 0.3:
            name = rng.choice(("byteorder", "constants.pkl", "../data/0", "data/" + "x" * 60_000))
            made.writestr(f"a/{name}", b"little")
    content = buffer.getvalue()
    return _mutated(rng, content) if rng.random() < 0.4 else content


def _old(rng: random.Random) -> bytes:
    info = rng.choice(
        (b"}X\x0d\0\0\0little_endian\x88s.", b"}X\x0d\0\0\0little_endian\x89s.", b"].")
    )
    start = b"\x80\x02\x8a\x0a\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19.\x80\x02M\xe9\x03.\x80\x02"
    keys = (
        b"\x80\x02]("
        + b"".join(b"X\1\0\0\0%d" % i for i in range(rng.choice((0, 1, 1, 3))))
        + b"e."
    )
    content = start + info + _pickle(rng, _TORCH) + keys
    content += (4).to_bytes(8, "little") + bytes(16)
    for _ in range(rng.randrange(3)):
        content += rng.choice(_NUMBERS).to_bytes(8, "little") + bytes(rng.choice((0, 4, 16, 64)))
    return _mutated(rng, content) if rng.random() < 0.3 else content


def _safetensors(rng: random.Random) -> bytes:
    if rng.random() < 0.3:
        arrays = {"a": np.ones((2, 3), "f4"), "b": np.arange(5), "c": np.array(True)}
        return _mutated(rng, safetensors.numpy.save(arrays, {"k": "v"}))

    def entry(begin: int) -> tuple[str, int]:
        shape = [rng.choice((1, 1, 2, 3, 0, *_NUMBERS))] * rng.choice((0, 1, 2, 2, 66))
        code = rng.choice(("F32", "F32", "BF16", "U8", "BOOL", "F8_E4M3", "F4", "x", "C64"))
        size = {"F32": 4, "BF16": 2}.get(code, 1)
        end = begin + size * int(np.prod([min(side, 9) for side in shape][:3], dtype=int))
        offsets = [begin, end] if rng.random() < 0.8 else [rng.choice(_NUMBERS), -1]
        fields = {"dtype": code, "shape": shape, "data_offsets": offsets}
        if rng.random() < 0.1:
            fields[rng.choice(tuple(fields))] = rng.choice(
                (None, {}, [[]], "x", 1e308, [True], -0.0)
            )
        return json.dumps(fields), end

    end, parts = 0, []
    for _ in range(rng.randrange(1, 5)):
        name = rng.choice(("a", "b", "c", "__metadata__", "\x1b[31m", "é" * 3000))
        text, end = entry(end)
        parts.append(f"{json.dumps(name)}:{text}")
    header = ("{" + ",".join(parts) + "}").encode()
    length = len(header) if rng.random() < 0.9 else rng.choice(_NUMBERS)
    return length.to_bytes(8, "little") + header + bytes(min(end, 100_000))


def _read_weights(path: Path) -> object:
    return read_arrays(path)


def _read_checkpoint(path: Path) -> object:
    return read_checkpoint(path)


READERS = [
    Reader("pickled weights", ".pdparams", _pdparams, _read_weights),
    Reader("PyTorch checkpoint", ".pth", _zip, _read_checkpoint),
    Reader("old PyTorch checkpoint", ".pth", _old, _read_checkpoint),
    Reader("safetensors", ".safetensors", _safetensors, _read_weights),
]
