"""Pictures from bytes that strangers sent: looked at by their header, then decoded."""

from __future__ import annotations

import io

import cv2
import numpy as np
from PIL import Image

from ppose.deploy.service.refusals import RefusedError

_FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "TIFF")
_MAGIC = (b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"BM", b"II*\0", b"MM\0*")


def check_header(data: bytes, max_pixels: int) -> None:
    """Raises RefusedError where the header says that decoding is useless or dangerous.

    413 above the limit of pixels, 415 for anything but a JPEG, PNG, WebP, BMP or TIFF file, 422
    for one whose header is damaged.
    """
    if not data:
        raise RefusedError(422, "empty", "the picture is empty: 0 bytes arrived")
    if not (data.startswith(_MAGIC) or (data[:4] == b"RIFF" and data[8:12] == b"WEBP")):
        raise RefusedError(
            415,
            "no_picture",
            f"not a picture in a known format ({', '.join(_FORMATS)}); it starts with {data[:8]!r}",
        )
    try:
        with Image.open(io.BytesIO(data), formats=_FORMATS) as header:
            width, height, kind = header.width, header.height, header.format
    except Image.DecompressionBombError as error:
        raise _too_large(f"{error}".split(",")[0], max_pixels) from None
    # Pillow's readers raise whatever damage leads to, as SyntaxError, struct.error or KeyError.
    except Exception as error:
        raise _damaged(f"its header cannot be read ({type(error).__name__})") from None
    if width * height > max_pixels:
        raise _too_large(f"a {kind} of {width}x{height} pixels", max_pixels)


def decode(data: bytes) -> np.ndarray:
    """(H, W, 3) uint8 RGB, turned as EXIF says; grey, 16 bits and alpha as `ppose.data.images`.

    Raises RefusedError 422 where pixels are damaged or missing.
    """
    try:
        image = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR_RGB)
    except cv2.error:
        image = None
    if image is None:
        raise _damaged("its pixels cannot be decoded")
    return image


def _too_large(what: str, max_pixels: int) -> RefusedError:
    return RefusedError(
        413, "too_many_pixels", f"{what}; at most {max_pixels} pixels are taken: scale it down"
    )


def _damaged(how: str) -> RefusedError:
    return RefusedError(
        422, "damaged", f"the picture is damaged or cut short: {how}; send it again"
    )
