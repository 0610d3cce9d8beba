"""Invalid uploads: damaged images and other data that a public service receives."""

from __future__ import annotations

import gzip
import struct
import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cache

import cv2
import numpy as np

SUFFIXES = (".jpg", ".png", ".webp", ".bmp", ".tiff")


@dataclass(frozen=True)
class Upload:
    """A POST request."""

    body: bytes
    headers: dict[str, str] = field(default_factory=lambda: {"Content-Type": "image/png"})
    path: str = "/pose"


@dataclass(frozen=True)
class Kind:
    """A kind of invalid upload.

    Attributes:
        make: creates an upload from a random generator and a valid image file.
        statuses: expected status codes.
    """

    make: Callable[[np.random.Generator, bytes], Upload]
    statuses: tuple[int, ...]


def mutated(sources: Sequence[bytes], count: int) -> Iterator[tuple[str, Upload]]:
    """Yields kinds of uploads by name, with an upload; all kinds are equally frequent.

    Args:
        sources: contents of image files, parts of which are encoded in several formats and damaged.
        count: number of uploads.
    """
    rng = np.random.default_rng(0)
    images = [cv2.imdecode(np.frombuffer(data, np.uint8), 1) for data in sources]
    names = list(KINDS)
    for i in range(count):
        image = images[rng.integers(len(images))]
        height, width = rng.integers(40, 160, 2)
        suffix = SUFFIXES[rng.integers(len(SUFFIXES))]
        valid = cv2.imencode(suffix, image[:height, :width])[1].tobytes()
        name = names[i % len(names)]
        yield name, KINDS[name].make(rng, valid)


def _truncated(rng: np.random.Generator, valid: bytes) -> Upload:
    return Upload(valid[: int(rng.uniform(0.001, 0.9) * len(valid)) + 1])


def _flipped(rng: np.random.Generator, valid: bytes) -> Upload:
    data = bytearray(valid)
    for place in rng.integers(len(data), size=rng.integers(1, 33)):
        data[place] ^= 1 << int(rng.integers(8))
    return Upload(bytes(data))


def _overwritten(rng: np.random.Generator, valid: bytes) -> Upload:
    """The magic number of an image format, then noise."""
    magic_numbers = (b"\xff\xd8\xff\xe0", b"\x89PNG\r\n\x1a\n", b"II*\0", b"MM\0*", b"BM")
    webp = b"RIFF" + rng.bytes(4) + b"WEBP"
    magic = (*magic_numbers, webp)[rng.integers(6)]
    return Upload(magic + rng.bytes(int(rng.integers(0, 5000))))


def _other_format(rng: np.random.Generator, valid: bytes) -> Upload:
    contents = (
        b"GIF89a" + rng.bytes(500),
        b"%PDF-1.7\n" + rng.bytes(500),
        b"PK\x03\x04" + rng.bytes(500),
        b'{"image": "data:image/png;base64,"}',
        b"<svg xmlns='http://www.w3.org/2000/svg'/>",
        gzip.compress(valid),
        b"\0" + rng.bytes(int(rng.integers(0, 5000))),
    )
    return Upload(contents[rng.integers(len(contents))])


def _wrong_type(rng: np.random.Generator, valid: bytes) -> Upload:
    kinds = ("text/plain", "application/json", "video/mp4", "", "image", "application/x-www-form")
    headers = {"Content-Type": kinds[rng.integers(len(kinds))]}
    if rng.random() < 0.2:
        headers = {"Content-Type": "image/png", "Content-Encoding": "gzip"}
    return Upload(valid, headers)


def _empty(rng: np.random.Generator, valid: bytes) -> Upload:
    return Upload(b"") if rng.random() < 0.5 else _form(b"")


def _huge(rng: np.random.Generator, valid: bytes) -> Upload:
    """A header with a size of 200 million to 4 billion pixels."""
    width, height = (int(side) for side in rng.integers(14_142, 65_000, 2))
    return Upload((_png, _bmp, _jpeg, _webp, _tiff)[rng.integers(5)](width, height))


def _zip_bomb(rng: np.random.Generator, valid: bytes) -> Upload:
    data = _bomb(int(rng.integers(3)))
    return Upload(data) if rng.random() < 0.5 else _form(data)


@cache
def _bomb(which: int) -> bytes:
    """A valid PNG of less than 3 MB that contains 75 to 600 MB of zeros."""
    side = (5_001, 8_000, 14_000)[which]
    packer, row = zlib.compressobj(1), bytes(3 * side + 1)
    return _png(side, side, b"".join(packer.compress(row) for _ in range(side)) + packer.flush())


def _too_long(rng: np.random.Generator, valid: bytes) -> Upload:
    """Too long by its Content-Length, or in chunks of unknown total length."""
    if rng.random() < 0.5:
        length = str(int(rng.integers(20_000_001, 1 << 40)))
        headers = {"Content-Length": length, "Expect": "100-continue"}
        return Upload(b"", {"Content-Type": "image/png", **headers})
    chunk = b"%x\r\n%b\r\n" % (1 << 20, bytes(1 << 20))
    headers = {"Content-Type": "image/png", "Transfer-Encoding": "chunked"}
    return Upload(chunk * 20 + b"0\r\n\r\n", headers)


def _parameters(rng: np.random.Generator, valid: bytes) -> Upload:
    queries = ("min_score=2", "min_score=x", "max_people=0", "max_people=1e9", "boxes=1", "%00=1")
    return Upload(valid, path="/pose?" + queries[rng.integers(len(queries))])


def _damaged_form(rng: np.random.Generator, valid: bytes) -> Upload:
    """A form without a complete image file in its field."""
    whole = _form(valid)
    body, kind = whole.body, whole.headers["Content-Type"]
    edge = body.index(b"\r\n\r\n") + 4
    chosen = rng.integers(6)
    if chosen == 0:
        body = body[: int(rng.integers(0, len(body) - 10))]
    elif chosen == 1:
        body = body.replace(b'name="image"', b'name="%x"' % rng.integers(1 << 30), 1)
    elif chosen == 2:
        kind = "multipart/form-data" + ("; boundary=" + "x" * 300) * int(rng.integers(2))
    elif chosen == 3:
        body = rng.bytes(edge) + body[edge:]
    elif chosen == 4:
        body = body.replace(b'; filename="x"', b"", 1)
    else:
        part = body[: body.rindex(b"--b--")]
        body = part * 2 + b"--b--\r\n"
    return Upload(body, {"Content-Type": kind})


def _noisy_form(rng: np.random.Generator, valid: bytes) -> Upload:
    whole = _form(valid)
    body, edge = bytearray(whole.body), whole.body.index(b"\r\n\r\n")
    for place in rng.integers(len(body), size=rng.integers(1, 20)):
        body[place] = int(rng.integers(256))
    for place in rng.integers(edge, size=rng.integers(0, 3)):
        body[place] = int(rng.integers(256))
    return Upload(bytes(body), whole.headers)


def _form(data: bytes) -> Upload:
    head = b'--b\r\nContent-Disposition: form-data; name="image"; filename="x"\r\n\r\n'
    return Upload(
        head + data + b"\r\n--b--\r\n", {"Content-Type": "multipart/form-data; boundary=b"}
    )


def _png(width: int, height: int, packed: bytes = b"") -> bytes:
    def chunk(kind: bytes, content: bytes) -> bytes:
        check = struct.pack(">I", zlib.crc32(kind + content))
        return struct.pack(">I", len(content)) + kind + content + check

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    chunks = (b"IHDR", header), (b"IDAT", packed), (b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunk(*each) for each in chunks)


def _bmp(width: int, height: int) -> bytes:
    sizes = struct.pack("<IiiHHIIiiII", 40, width, height, 1, 24, 0, 0, 0, 0, 0, 0)
    return b"BM" + struct.pack("<IHHI", 54, 0, 0, 54) + sizes + bytes(100)


def _jpeg(width: int, height: int) -> bytes:
    data = bytearray(cv2.imencode(".jpg", np.zeros((8, 8, 3), np.uint8))[1].tobytes())
    at = data.index(b"\xff\xc0") + 5
    data[at : at + 4] = struct.pack(">HH", height, width)
    return bytes(data)


def _webp(width: int, height: int) -> bytes:
    sides = (width - 1).to_bytes(3, "little") + (height - 1).to_bytes(3, "little")
    small = cv2.imencode(".webp", np.zeros((8, 8, 3), np.uint8))[1].tobytes()[12:]
    body = b"VP8X" + struct.pack("<I", 10) + bytes(4) + sides + small
    return b"RIFF" + struct.pack("<I", len(body) + 4) + b"WEBP" + body


def _tiff(width: int, height: int) -> bytes:
    tags = ((256, width), (257, height), (258, 8), (259, 1), (262, 1), (273, 8), (277, 1))
    tags += ((278, height), (279, width * height % (1 << 32)))
    entries = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in tags)
    return b"II*\0" + struct.pack("<IH", 8, len(tags)) + entries + bytes(4)


# A flipped bit in a pixel, a comment or a file name may leave a valid image, so those kinds may be
# answered with 200.
KINDS = {
    "cut short": Kind(_truncated, (415, 422)),
    "noise after a magic number": Kind(_overwritten, (413, 422)),
    "another format": Kind(_other_format, (415,)),
    "wrong content type or encoding": Kind(_wrong_type, (415,)),
    "empty": Kind(_empty, (422,)),
    "huge size in the header": Kind(_huge, (413,)),
    "zip bomb PNG": Kind(_zip_bomb, (413,)),
    "too many bytes": Kind(_too_long, (413,)),
    "wrong parameters": Kind(_parameters, (422,)),
    "damaged form": Kind(_damaged_form, (422,)),
    "flipped bits, perhaps valid": Kind(_flipped, (200, 413, 415, 422)),
    "noise in a form, perhaps valid": Kind(_noisy_form, (200, 413, 415, 422)),
}
