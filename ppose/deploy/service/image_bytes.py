"""Decoding of uploaded images, after a check of their headers."""

from __future__ import annotations

import io

import cv2
import numpy as np
from PIL import Image

from ppose.deploy.service.errors import RequestError

_FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "TIFF")
_MAGIC = (b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"BM", b"II*\0", b"MM\0*")


def check_header(data: bytes, max_pixels: int) -> None:
    """Checks format and size of an image by its header.

    Raises:
        RequestError: 413 too many pixels, 415 not a JPEG, PNG, WebP, BMP or TIFF file, 422 a
            damaged header.
    """
    if not data:
        raise RequestError(422, "empty", "the image is empty: received 0 bytes")
    if not (data.startswith(_MAGIC) or (data[:4] == b"RIFF" and data[8:12] == b"WEBP")):
        raise RequestError(
            415,
            "no_picture",
            f"not an image in a supported format ({', '.join(_FORMATS)}): {data[:8]!r}…",
        )
    try:
        with Image.open(io.BytesIO(data), formats=_FORMATS) as header:
            width, height, kind = header.width, header.height, header.format
    except Image.DecompressionBombError as error:
        raise _too_large(f"{error}".split(",")[0], max_pixels) from None
    # For damaged files Pillow raises many types, such as SyntaxError, struct.error or KeyError.
    except Exception as error:
        raise _damaged(f"its header cannot be read ({type(error).__name__})") from None
    if width * height > max_pixels:
        raise _too_large(f"a {kind} of {width}x{height} pixels", max_pixels)


def decode(data: bytes) -> np.ndarray:
    """Decodes an image to (H, W, 3) uint8 RGB, rotated by its EXIF orientation.

    Greyscale, 16-bit and alpha images are converted as in `ppose.data.images`.

    Raises:
        RequestError: 422 for damaged or missing pixels.
    """
    try:
        image = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR_RGB)
    except cv2.error:
        image = None
    if image is None:
        raise _damaged("its pixels cannot be decoded")
    return image


def _too_large(what: str, max_pixels: int) -> RequestError:
    return RequestError(
        413, "too_many_pixels", f"{what}; at most {max_pixels} pixels are allowed: scale it down"
    )


def _damaged(how: str) -> RequestError:
    return RequestError(422, "damaged", f"the image is damaged or cut short: {how}; send it again")
