"""Image files that are hard on decoders, for tests of all that reads images."""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Iterable

from PIL import Image


def png_chunk(kind: bytes, content: bytes) -> bytes:
    """A chunk of a PNG, with its length and checksum."""
    check = struct.pack(">I", zlib.crc32(kind + content))
    return struct.pack(">I", len(content)) + kind + content + check


def png_file(size_wh: tuple[int, int], chunks: Iterable[tuple[bytes, bytes]]) -> bytes:
    """An 8-bit RGB PNG of these chunks, between its header and its end."""
    header = struct.pack(">IIBBBBB", *size_wh, 8, 2, 0, 0, 0)
    parts = [(b"IHDR", header), *chunks, (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(png_chunk(*part) for part in parts)


def zeros(megabytes: int) -> bytes:
    """So many megabytes of zeros, compressed about 1000 times."""
    packer = zlib.compressobj(9)
    first, second = (
        packer.compress(bytes(1 << 20)) + packer.flush(zlib.Z_FULL_FLUSH) for _ in range(2)
    )
    # After a full flush each part has the same bytes; the checksum at the end is missing.
    return first + second * (megabytes - 1)


def jpeg_with_scans(count: int, size_wh: tuple[int, int] = (64, 48)) -> bytes:
    """A progressive JPEG whose last scan follows `count` times."""
    content = io.BytesIO()
    Image.new("RGB", size_wh, (90, 120, 30)).save(content, "JPEG", progressive=True)
    data = content.getvalue()
    last = data.rindex(b"\xff\xda")
    return data[:last] + data[last:-2] * count + b"\xff\xd9"
