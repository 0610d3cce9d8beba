"""Images: files of all formats whose structures are valid and whose contents are not."""

from __future__ import annotations

import io
import random
import struct
import zlib
from functools import cache
from pathlib import Path

import numpy as np
from image_files import png_chunk, zeros
from PIL import Image

from hostile.harness import Reader
from ppose.data.images import read_image

_SIDES = (0, 1, 2, 7, 8, 9, 16, 17, 64, 255, 256, 300, 1000, 5000, 16383, 16384, 65500, 65535)
_NUMBERS = (0, 1, 2, 3, 8, 255, 256, 65535, 65536, 2**24, 2**31 - 1, 2**31, 2**32 - 1)


@cache
def valid(kind: str, variant: int) -> bytes:
    """A small valid file, with an EXIF orientation where the format has one."""
    rng = np.random.default_rng(variant)
    pixels = rng.integers(0, 256, (24 + variant, 40, 3), np.uint8).repeat(2, 0)
    exif = Image.Exif()
    exif[0x0112] = variant % 10
    exif[0x010F] = "x" * 40
    options: dict[str, object] = {"exif": exif} if kind in ("JPEG", "PNG", "WEBP") else {}
    if kind == "JPEG":
        options |= {"progressive": variant % 2 == 1, "quality": 30 + 10 * (variant % 6)}
    elif kind == "WEBP":
        options |= {"lossless": variant % 2 == 1}
    elif kind == "TIFF":
        names = ("raw", "tiff_lzw", "tiff_adobe_deflate", "packbits", "jpeg")
        options |= {"compression": names[variant % len(names)]}
    image = Image.fromarray(pixels)
    if kind in ("PNG", "BMP", "TIFF") and options.get("compression") != "jpeg":
        image = image.convert(("RGB", "L", "P", "1")[variant % 4])
    content = io.BytesIO()
    image.save(content, kind, **options)
    return content.getvalue()


def damaged(rng: random.Random, data: bytes) -> bytes:
    """Bytes changed, cut, doubled or moved."""
    changed = bytearray(data)
    for _ in range(rng.choice((1, 1, 2, 4, 16))):
        at = rng.randrange(len(changed))
        kind = rng.randrange(5)
        if kind == 0:
            changed[at] = rng.choice((0, 1, 0x7F, 0x80, 0xFF, rng.randrange(256)))
        elif kind == 1:
            number = struct.pack(rng.choice("<>") + "I", rng.choice(_NUMBERS))
            changed[at : at + 4] = number[: rng.choice((2, 4))]
        elif kind == 2:
            end = min(len(changed), at + rng.randrange(1, 200))
            changed[at:at] = changed[at:end] * rng.choice((1, 2, 100))
        elif kind == 3:
            del changed[at : at + rng.randrange(1, 200)]
        else:
            changed[at:at] = rng.randbytes(rng.randrange(1, 40))
        if not changed:
            changed = bytearray(data[:8])
    return bytes(changed[: rng.randrange(len(changed))] if rng.random() < 0.1 else changed)


def _segment(marker: int, content: bytes, length: int | None = None) -> bytes:
    size = len(content) + 2 if length is None else length
    return bytes([0xFF, marker]) + struct.pack(">H", size & 0xFFFF) + content


def _jpeg(rng: random.Random) -> bytes:
    """Segments that are valid alone, in any number and order, with contradictory sizes."""
    components = rng.choice((1, 3, 3, 3, 4, 2, 255))
    side = rng.choice(_SIDES), rng.choice(_SIDES)
    marker = rng.choice((0xC0, 0xC0, 0xC1, 0xC2, 0xC2, 0xC3, 0xC9, 0xCA))
    factors = (0x11, 0x11, 0x22, 0x21, 0x44, 0x14, 0x00, 0xFF)
    listed = b"".join(bytes([i, rng.choice(factors), 0]) for i in range(min(components, 10)))
    frame = _segment(
        marker, struct.pack(">BHHB", rng.choice((8, 8, 8, 12)), *side, components) + listed
    )
    parts = [_segment(0xDB, bytes([0]) + bytes([1]) * 64)]
    for table in range(2):
        # Codes of one or two bits, for the values that run longest.
        values = rng.sample((0, 1, 0xE0, 0xF0, 0xD0, 0x11, 0x0F), 3)
        lengths = bytes([1, 2]) + bytes(14)
        parts.append(_segment(0xC4, bytes([table << 4]) + lengths + bytes(values)))
    if rng.random() < 0.3:
        parts.append(_segment(0xDD, struct.pack(">H", rng.choice((0, 1, 2, 65535)))))
    for _ in range(rng.choice((0, 0, 1, 20, 3000))):
        contents = (b"", b"Exif\0\0" + _tiff(rng)[:5000], b"ICC_PROFILE\0\1\1", rng.randbytes(20))
        parts.append(
            _segment(
                rng.choice((0xE0, 0xE1, 0xE2, 0xFE, 0xEE)),
                rng.choice(contents),
                rng.choice((None, None, 0, 1, 65535)),
            )
        )
    parts.insert(rng.randrange(len(parts) + 1), frame)
    if rng.random() < 0.1:
        parts.append(frame)
    for _ in range(rng.choice((1, 1, 3, 10, 40, 99, 400))):
        chosen = rng.choice((range(1), range(min(components, 4)), [rng.randrange(5)]))
        spectral = rng.choice(((0, 63), (0, 0), (1, 63), (1, 5), (63, 1)))
        bits = rng.choice((0, 0, 0x01, 0x10, 0xDD))
        head = bytes([len(chosen)]) + b"".join(bytes([i, 0]) for i in chosen)
        parts.append(_segment(0xDA, head + bytes([*spectral, bits])))
        data = rng.choice((b"", bytes(60), b"\x7f" * 60, rng.randbytes(200)))
        parts.append(data.replace(b"\xff", rng.choice((b"\xff\0", b"\xff\xd0", b"\xff"))))
    end = rng.choice((b"\xff\xd9", b"", b"\xff\xd8", b"\xff"))
    return b"\xff\xd8" + b"".join(parts) + end


def _png(rng: random.Random) -> bytes:
    """Chunks with valid checksums."""
    width, height = rng.choice(_SIDES), rng.choice(_SIDES)
    bits, colour = rng.choice((1, 2, 4, 8, 8, 8, 16, 0, 32)), rng.choice((0, 2, 2, 3, 4, 6, 1, 9))
    header = struct.pack(
        ">IIBBBBB", width, height, bits, colour, rng.choice((0, 0, 0, 1)), 0, rng.choice((0, 0, 1))
    )
    chunks = [png_chunk(b"IHDR", header)]
    bomb = rng.choice((b"", zlib.compress(b"x"), _zeros(8), _zeros(600)))
    for _ in range(rng.choice((0, 1, 3, 10, 1000))):
        small = bomb if len(bomb) < 10_000 else b""
        chunks.append(
            rng.choice(
                (
                    png_chunk(b"zTXt", b"x\0\0" + small),
                    png_chunk(b"iTXt", b"x\0\1\0\0\0" + small),
                    png_chunk(b"iCCP", b"x\0\0" + small),
                    png_chunk(b"PLTE", rng.randbytes(rng.choice((3, 768, 4, 900)))),
                    png_chunk(b"tRNS", rng.randbytes(rng.choice((1, 2, 6, 256)))),
                    png_chunk(b"eXIf", _tiff(rng)[:3000]),
                    png_chunk(b"acTL", struct.pack(">II", rng.choice(_NUMBERS), 0)),
                    png_chunk(
                        b"fcTL",
                        struct.pack(
                            ">IIIIIHHBB",
                            rng.choice((0, 1)),
                            *(rng.choice(_NUMBERS) for _ in range(4)),
                            *(1, 0, rng.randrange(4), rng.randrange(3)),
                        ),
                    ),
                    png_chunk(b"fdAT", struct.pack(">I", 1) + small),
                    png_chunk(b"IDAT", b""),
                    png_chunk(b"IHDR", header),
                    png_chunk(b"CgBI", bytes(4)),
                )
            )
        )
    pixels = rng.choice((_zeros(8), _zeros(600), zlib.compress(rng.randbytes(5000)), b"", b"x"))
    step = rng.choice((len(pixels) + 1, 1000, 8192))
    chunks += [png_chunk(b"IDAT", pixels[at : at + step]) for at in range(0, len(pixels) + 1, step)]
    if rng.random() < 0.9:
        chunks.append(png_chunk(b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunks)


@cache
def _zeros(megabytes: int) -> bytes:
    return zeros(megabytes)


def _webp(rng: random.Random) -> bytes:
    """RIFF chunks of small images, animations and absurd sizes."""
    still = valid("WEBP", rng.randrange(12))[12:]
    lengths = [rng.choice((0, 1, 39, 255, 16383, 2**24 - 1)) for _ in range(2)]
    sides = b"".join(length.to_bytes(3, "little") for length in lengths)
    parts = []
    if rng.random() < 0.8:
        parts.append(_riff(b"VP8X", bytes([rng.choice((0, 2, 8, 0x10, 0x3E)), 0, 0, 0]) + sides))
    for _ in range(rng.choice((1, 1, 2, 50, 500))):
        frame = bytes(6) + sides + bytes([100, 0, 0, rng.randrange(4)]) + still[:4000]
        kinds = (
            still,
            _riff(b"ANIM", bytes(4) + struct.pack("<H", 0)),
            _riff(b"ANMF", frame),
            _riff(b"ALPH", bytes([rng.randrange(64)]) + rng.randbytes(20)),
            _riff(b"EXIF", _tiff(rng)[:3000]),
            _riff(b"ICCP", rng.randbytes(30)),
            _riff(b"VP8L", b"\x2f" + rng.randbytes(60)),
            _riff(b"VP8 ", rng.randbytes(3) + b"\x9d\x01\x2a" + rng.randbytes(60)),
        )
        parts.append(rng.choice(kinds))
    body = b"WEBP" + b"".join(parts)
    size = rng.choice((len(body), len(body), 0, 2**32 - 1, len(body) - 1))
    return b"RIFF" + struct.pack("<I", size & 0xFFFFFFFF) + body


def _riff(kind: bytes, content: bytes) -> bytes:
    return kind + struct.pack("<I", len(content)) + content + bytes(len(content) % 2)


def _bmp(rng: random.Random) -> bytes:
    """Headers of all versions, with palettes and run lengths."""
    size = rng.choice((12, 40, 40, 40, 52, 56, 108, 124, 0, 16, 64, 2**31))
    width, height = rng.choice((*_SIDES, -1, -5000)), rng.choice((*_SIDES, -1, -300, -(2**31)))
    bits, kind = rng.choice((1, 4, 8, 8, 16, 24, 24, 32, 0, 64)), rng.choice((0, 0, 1, 2, 3, 4, 5))
    if size == 12:
        header = struct.pack("<IHHHH", size, width & 0xFFFF, height & 0xFFFF, 1, bits)
    else:
        more = [rng.choice(_NUMBERS) for _ in range(4)] if rng.random() < 0.3 else [0] * 4
        colours = rng.choice((0, 0, 2, 256, 2**31, 2**32 - 1))
        header = struct.pack("<IiiHHI", size, width, height, 1, bits, kind)
        header += struct.pack("<IIIII", *more, colours)[: max(0, min(size, 124) - 20) or 20]
    pixels = rng.choice(
        (b"", rng.randbytes(3000), b"\xff\x01" * 50_000, b"\0\2\xff\xff" * 9000, bytes(10_000))
    )
    offset = rng.choice((14 + len(header), 14 + len(header) + 1024, 0, 2**31, 2**32 - 1))
    return b"BM" + struct.pack("<IHHI", 14 + len(header), 0, 0, offset) + header + pixels


def _tiff(rng: random.Random) -> bytes:
    """Directories with any tags, whose values contradict each other."""
    order = rng.choice("<>")
    tags = {256: rng.choice(_SIDES), 257: rng.choice(_SIDES)}
    tags |= {258: rng.choice((1, 8, 8, 8, 16, 32, 64))}
    tags |= {259: rng.choice((1, 5, 6, 7, 8, 32773, 2, 3, 4, 34925, 50000, 50001)), 262: 2}
    tags |= {277: rng.choice((1, 3, 3, 4, 65535)), 278: rng.choice((1, 8, 300, 65535)), 284: 1}
    tags |= {273: rng.choice((8, 200, 2**31)), 279: rng.choice((0, 10, 3000, 2**31))}
    for tag in (274, 317, 322, 323, 324, 325, 330, 338, 339, 320, 347, 530, 34665, 512):
        if rng.random() < 0.2:
            tags[tag] = rng.choice((1, 2, 3, 6, 8, 16, 240, 256, *_NUMBERS))
    entries = b""
    for tag, value in sorted(tags.items()):
        usual = rng.random() < 0.95
        kind = rng.choice((3, 4) if usual else (1, 2, 5, 16, 99))
        count = 1 if usual else rng.choice((2, 3, 1000, 2**31, 2**32 - 1))
        short = value <= 65535 and kind == 3
        stored = struct.pack(f"{order}HH", value, 0) if short else struct.pack(f"{order}I", value)
        entries += struct.pack(f"{order}HHI", tag, kind, count) + stored
    following = rng.choice((0, 8, 10, 2**31))
    head = b"II*\0" if order == "<" else b"MM\0*"
    directory = struct.pack(f"{order}H", rng.choice((len(tags), len(tags), 65535, 0)))
    packed = zlib.compress(bytes(90_000))
    data = rng.choice((packed, rng.randbytes(3000), valid("JPEG", 1), _zeros(8)))
    return (
        head
        + struct.pack(f"{order}I", 8)
        + directory
        + entries
        + struct.pack(f"{order}I", following)
        + data
    )


_KINDS = {"JPEG": _jpeg, "PNG": _png, "WEBP": _webp, "BMP": _bmp, "TIFF": _tiff}


def generate(rng: random.Random) -> bytes:
    kind = rng.choice(list(_KINDS))
    if rng.random() < 0.35:
        return damaged(rng, valid(kind, rng.randrange(30)))
    data = _KINDS[kind](rng)
    return damaged(rng, data) if rng.random() < 0.2 else data


def _read(path: Path) -> object:
    return read_image(path)


READERS = [Reader("images", ".jpg", generate, _read)]
