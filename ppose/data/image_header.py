"""Format, size and decoding cost of an image file, read from its bytes before it is decoded.

Decoders do what a file asks of them: a few kilobytes may ask for minutes. Only the formats of
`FORMATS` are accepted, whose structures are read here.
"""

from __future__ import annotations

import re
import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass

from ppose.utils.errors import PposeError

FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "TIFF")
MAX_PIXELS = 2**27  # 134 million: 400 MB as RGB
_MAX_PASSES = 20  # times that `max_pixels` may be decoded: scans of a progressive JPEG
_MAX_SCANS = 100  # encoders write about 10
_MAX_SEGMENTS = 10_000  # of a JPEG
_MAX_CHUNKS = 100_000  # of a PNG
_MAX_MEMORY = 10**9  # bytes of coefficients and pixels of a progressive JPEG
_PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_PNG_CHUNKS = (b"IHDR", b"PLTE", b"tRNS", b"eXIf", b"IDAT", b"IEND")
_PNG_CHANNELS = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}
_ZLIB_RATIO = 1032  # the highest that deflate reaches
_UNCHECKED_BYTES = 500_000_000  # that may be inflated without having been counted
_SIGNATURES = {
    **{b"\xff\xd8\xff": "JPEG", _PNG_SIGNATURE: "PNG", b"BM": "BMP"},
    **{b"II*\0": "TIFF", b"MM\0*": "TIFF"},
}
# A marker with a segment: not a stuffed byte, padding, a restart, or another without a length.
_MARKER = re.compile(rb"\xff[^\x00\x01\xd0-\xd8\xff]")
_SOS, _EOI = 0xDA, 0xD9
_FRAMES = (0xC0, 0xC1, 0xC2)  # baseline, extended, progressive: what all browsers show
_OTHER_FRAMES = (0xC3, *range(0xC5, 0xC8), *range(0xC9, 0xCC), *range(0xCD, 0xD0))


class ImageError(PposeError, ValueError):
    """An image that cannot be used; the message has the reason and what to do."""


class ImageFormatError(ImageError):
    """Not an image in a known format."""


class DamagedImageError(ImageError):
    """A damaged or truncated image, or one that contradicts itself."""


class ImageTooLargeError(ImageError):
    """An image that would take too much memory or time."""


@dataclass(frozen=True)
class ImageHeader:
    """Format of an image file, and its width and height in pixels before any rotation."""

    format: str
    width: int
    height: int

    def __str__(self) -> str:
        return f"a {self.format} of {self.width}x{self.height} pixels"


def read_header(data: bytes, max_pixels: int = MAX_PIXELS) -> ImageHeader:
    """Format and size of an image file.

    Raises:
        ImageFormatError: not an image in one of `FORMATS`.
        DamagedImageError: its header is damaged, or ends early.
        ImageTooLargeError: more than `max_pixels` pixels.
    """
    kind = _format(data)
    try:
        width, height = _SIZES[kind](data)
    except (struct.error, IndexError):
        raise _damaged(f"the header of this {kind} ends early") from None
    header = ImageHeader(kind, width, height)
    if width < 1 or height < 1:
        raise _damaged(f"it is {header}")
    if width * height > max_pixels:
        raise ImageTooLargeError(
            f"too large: {header}, {width * height} pixels; at most {max_pixels} pixels are "
            "allowed: scale it down"
        )
    return header


def checked(data: bytes, max_pixels: int = MAX_PIXELS) -> tuple[ImageHeader, bytes]:
    """The header, and the parts of the file that may be decoded.

    Metadata of a PNG is left out, except the orientation, so that nobody inflates it. Takes time
    that is proportional to the size of the file.

    Raises:
        ImageFormatError, DamagedImageError: see `read_header`; the file contradicts itself.
        ImageTooLargeError: more than `max_pixels` pixels, or as much work as that many pixels
            20 times.
    """
    header = read_header(data, max_pixels)
    if header.format == "JPEG":
        _check_scans(data, header, max_pixels)
    elif header.format == "PNG":
        data = _png_pixels(data, header)
    return header, data


def _format(data: bytes) -> str:
    for signature, name in _SIGNATURES.items():
        if data.startswith(signature):
            return name
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return "WEBP"
    raise ImageFormatError(
        f"not an image in a known format ({', '.join(FORMATS)}), or damaged or truncated; "
        f"it starts with {data[:8]!r}"
    )


def _damaged(how: str) -> DamagedImageError:
    return DamagedImageError(f"damaged or truncated: {how}")


def _segments(data: bytes) -> Iterator[tuple[int, int]]:
    """Markers of a JPEG that have a segment, and where it starts after its length."""
    at = 2
    for _ in range(_MAX_SEGMENTS):
        found = _MARKER.search(data, at)
        if found is None:
            return
        marker, at = data[found.end() - 1], found.end()
        if marker == _EOI:
            return
        (length,) = struct.unpack_from(">H", data, at)
        yield marker, at + 2
        at += length
    raise ImageTooLargeError(f"this JPEG has more than {_MAX_SEGMENTS} segments; save it again")


def _jpeg_frame(data: bytes) -> tuple[int, int]:
    """Marker of the frame of a JPEG, and where its segment starts."""
    for marker, at in _segments(data):
        if marker in _FRAMES:
            return marker, at
        if marker in _OTHER_FRAMES:
            raise _damaged("a lossless, hierarchical or arithmetic JPEG; save it as a usual one")
        if marker == _SOS:
            break
    raise _damaged("this JPEG has no frame header")


def _jpeg_size(data: bytes) -> tuple[int, int]:
    _, at = _jpeg_frame(data)
    precision, height, width, components = struct.unpack_from(">BHHB", data, at)
    if precision != 8 or components not in (1, 3, 4):
        raise _damaged(f"a JPEG with {precision} bits and {components} components")
    return width, height


def _check_scans(data: bytes, header: ImageHeader, max_pixels: int) -> None:
    """Raises ImageTooLargeError if decoding all scans would take too long."""
    frame, at = _jpeg_frame(data)
    pixels, components = header.width * header.height, data[at + 5]
    most = min(_MAX_SCANS, _MAX_PASSES * max_pixels // pixels)
    scans = 0
    try:
        for marker, _ in _segments(data):
            scans += marker == _SOS
            if scans > most:
                raise ImageTooLargeError(
                    f"{header} with more than {most} scans, each a pass over all pixels; save it "
                    "again"
                )
    except struct.error:
        pass  # truncated after the frame; the decoder finds out whether pixels are missing
    if (scans > 1 or frame == 0xC2) and pixels * (3 + 2 * components) > _MAX_MEMORY:
        raise ImageTooLargeError(f"too large: {header} in several scans; save it as baseline JPEG")


def _png_chunks(data: bytes) -> Iterator[tuple[bytes, int, int]]:
    """Type, start and end of the chunks of a PNG, with their lengths and checksums."""
    at = len(_PNG_SIGNATURE)
    for _ in range(_MAX_CHUNKS):
        if at + 12 > len(data):
            return
        length, kind = struct.unpack_from(">I4s", data, at)
        yield kind, at, at + 12 + length
        if kind == b"IEND":
            return
        at += 12 + length
    raise ImageTooLargeError(f"this PNG has more than {_MAX_CHUNKS} chunks; save it again")


def _png_size(data: bytes) -> tuple[int, int]:
    length, kind, width, height = struct.unpack_from(">I4sII", data, len(_PNG_SIGNATURE))
    if kind != b"IHDR" or length != 13:
        raise _damaged("this PNG does not start with its header")
    return width, height


def _png_pixels(data: bytes, header: ImageHeader) -> bytes:
    """The file with the chunks alone that pixels and orientation need."""
    chunks = list(_png_chunks(data))
    parts = [data[start:end] for kind, start, end in chunks if kind in _PNG_CHUNKS]
    pixels = [memoryview(part)[8:-4] for part in parts if part[4:8] == b"IDAT"]
    if _ZLIB_RATIO * sum(map(len, pixels)) > _UNCHECKED_BYTES:
        _check_png_size(data, header, pixels)
    return data if len(parts) == len(chunks) else b"".join([_PNG_SIGNATURE, *parts])


def _check_png_size(data: bytes, header: ImageHeader, pixels: list[memoryview]) -> None:
    """Raises DamagedImageError if more is compressed than the pixels of this size."""
    bits, colour = data[24], data[25]
    row = (header.width * bits * _PNG_CHANNELS.get(colour, 4) + 7) // 8 + 1
    # Interlacing adds the filter bytes and the rounding of up to 7 passes.
    left = row * header.height + 16 * header.height + 1024
    inflater = zlib.decompressobj()
    try:
        for part in pixels:
            rest: bytes | memoryview = part
            while rest and not inflater.eof and left >= 0:
                left -= len(inflater.decompress(rest, 1 << 16))
                rest = inflater.unconsumed_tail
    except zlib.error:
        return  # the decoder stops there, too
    if left < 0:
        raise _damaged(f"{header} with more compressed data than its pixels")


def _webp_size(data: bytes) -> tuple[int, int]:
    kind = data[12:16]
    if kind == b"VP8X":
        sides = [int.from_bytes(data[at : at + 3], "little") + 1 for at in (24, 27)]
        if len(data) < 30:
            raise IndexError
        return sides[0], sides[1]
    if kind == b"VP8L":
        (bits,) = struct.unpack_from("<I", data, 21)
        return (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1
    if kind == b"VP8 ":
        width, height = struct.unpack_from("<HH", data, 26)
        return width & 0x3FFF, height & 0x3FFF
    raise _damaged("this WEBP has no image")


def _bmp_size(data: bytes) -> tuple[int, int]:
    (header_size,) = struct.unpack_from("<I", data, 14)
    width, height = struct.unpack_from("<HH" if header_size == 12 else "<ii", data, 18)
    return width, abs(height)


def _tiff_size(data: bytes) -> tuple[int, int]:
    tags = _tiff_tags(data)
    width, height = tags.get(_TIFF_WIDTH, 0), tags.get(_TIFF_HEIGHT, 0)
    pixel = tags.get(_TIFF_BITS, 1) * tags.get(_TIFF_SAMPLES, 1)
    if pixel > _TIFF_MAX_BITS:
        raise _damaged(f"a TIFF with {pixel} bits per pixel; at most {_TIFF_MAX_BITS} are known")
    tile = tags.get(_TIFF_TILE_WIDTH, 0) * tags.get(_TIFF_TILE_HEIGHT, 0)
    if tile > max(4 * width * height, _TIFF_SMALL_TILE):
        raise _damaged(f"a TIFF of {width}x{height} pixels in tiles of {tile}")
    return width, height


def _tiff_tags(data: bytes) -> dict[int, int]:
    """The first values of those tags of the first image that tell its size."""
    order = "<" if data[:2] == b"II" else ">"
    (directory,) = struct.unpack_from(f"{order}I", data, 4)
    (count,) = struct.unpack_from(f"{order}H", data, directory)
    found: dict[int, int] = {}
    for entry in range(directory + 2, directory + 2 + 12 * count, 12):
        tag, kind, values = struct.unpack_from(f"{order}HHI", data, entry)
        if tag not in _TIFF_TAGS:
            continue
        form = {3: "H", 4: "I"}.get(kind)
        if form is None or tag in found or values < 1:
            raise _damaged(f"tag {tag} of this TIFF is not one number")
        at = entry + 8
        if values * struct.calcsize(form) > 4:
            (at,) = struct.unpack_from(f"{order}I", data, at)
        (found[tag],) = struct.unpack_from(f"{order}{form}", data, at)
    return found


_TIFF_WIDTH, _TIFF_HEIGHT, _TIFF_BITS, _TIFF_SAMPLES = 256, 257, 258, 277
_TIFF_TILE_WIDTH, _TIFF_TILE_HEIGHT = 322, 323
_TIFF_TAGS = frozenset(
    (_TIFF_WIDTH, _TIFF_HEIGHT, _TIFF_BITS, _TIFF_SAMPLES, _TIFF_TILE_WIDTH, _TIFF_TILE_HEIGHT)
)
_TIFF_MAX_BITS = 64  # four samples of 16 bits
_TIFF_SMALL_TILE = 2**22  # pixels
_SIZES = {
    "JPEG": _jpeg_size,
    "PNG": _png_size,
    "WEBP": _webp_size,
    "BMP": _bmp_size,
    "TIFF": _tiff_size,
}
