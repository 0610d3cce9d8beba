"""Pictures from files, as (H, W, 3) uint8 RGB whatever the file holds."""

from __future__ import annotations

import glob
import io
import re
from difflib import get_close_matches
from pathlib import Path

import cv2
import numpy as np

from ppose.errors import PposeError

try:
    from PIL import Image
except ImportError:  # deployment does without; OpenCV then bounds the size
    Image = None  # type: ignore[assignment]

_FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "TIFF")
_BEGINNINGS = {
    **{b"\xff\xd8\xff": "JPEG", b"\x89PNG\r\n\x1a\n": "PNG", b"RIFF": "WEBP", b"BM": "BMP"},
    **{b"II*\0": "TIFF", b"MM\0*": "TIFF"},
}
_EXTENSIONS = frozenset((".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff"))


class ImageError(PposeError, ValueError):
    """A picture that cannot be used; the message has the file, the reason and what to do."""


def read_image(path: str | Path, expected_size_wh: tuple[int, int] | None = None) -> np.ndarray:
    """(H, W, 3) uint8 RGB pixels of a JPEG, PNG, WebP, BMP or TIFF file.

    Grey becomes three equal channels, 16 bits become 8, and alpha is dropped. The picture is
    turned as its EXIF orientation says, unless only the stored pixels have the expected size:
    annotations lie on the pixels whose size they give.

    Args:
        path: the file; its content decides the format.
        expected_size_wh: width and height in the annotations.

    Raises:
        ImageError: no such file, empty, no picture, damaged or cut short, of another size than
            expected, or so large that decoding would fill the memory (179 million pixels,
            Pillow's limit against decompression bombs).
    """
    path = Path(path)
    data = _content(path)
    header = _header(path, data)
    image = _decoded(path, data, cv2.IMREAD_COLOR_RGB)
    if image is None:
        raise ImageError(
            f"{path}: damaged or cut short: a {header} whose pixels cannot be decoded; "
            "fetch the file again or remove it"
        )
    if expected_size_wh is None or expected_size_wh == _size_wh(image):
        return image
    stored = _decoded(path, data, cv2.IMREAD_COLOR_RGB | cv2.IMREAD_IGNORE_ORIENTATION)
    if stored is not None and _size_wh(stored) == expected_size_wh:
        return stored
    width, height = _size_wh(image)
    raise ImageError(
        f"{path}: is {width}x{height}, but annotated as {expected_size_wh[0]}x"
        f"{expected_size_wh[1]}, so that keypoints would not lie on it; use the original "
        "pictures or scale the annotations"
    )


def list_images(pictures: str | Path) -> list[Path]:
    """The files that a command line means, sorted with numbers by value.

    Args:
        pictures: a file, taken whatever its name; a folder, whose pictures are taken without
            those of subfolders; or a pattern (`**` reaches into subfolders). From folders and
            patterns hidden files and files of other extensions are left out.

    Raises:
        ImageError: nothing found; says what is there.
    """
    path = Path(pictures)
    if path.is_file():
        return [path]
    if path.is_dir():
        found = list(path.iterdir())
    elif glob.has_magic(str(pictures)):
        found = [Path(name) for name in glob.glob(str(pictures), recursive=True)]  # noqa: PTH207
    else:
        raise ImageError(f"there is no picture or folder {path}: {nearest_path(path)}")
    images = [p for p in found if _has_image_name(p) and p.is_file()]
    if not images:
        others = f"; found {len(found)} other files" if found else ""
        raise ImageError(f"{pictures}: no picture ({', '.join(sorted(_EXTENSIONS))}){others}")
    return sorted(set(images), key=_natural)


def nearest_path(path: Path) -> str:
    """The tail of an error about a path that does not exist: what stands where it was sought."""
    folder, name = path.absolute().parent, path.name
    while not folder.is_dir():
        folder, name = folder.parent, folder.name
    names = sorted(entry.name for entry in folder.iterdir() if not entry.name.startswith("."))
    close = get_close_matches(name, names[:10_000], 1)
    if close:
        return f"{folder} has no '{name}'; did you mean '{close[0]}'?"
    shown = ", ".join(names[:5]) + (", …" if len(names) > 5 else "")
    return f"{folder} has no '{name}'; it holds {shown or 'nothing'}"


def _content(path: Path) -> bytes:
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        raise ImageError(f"{path}: no such file") from None
    except OSError as error:
        raise ImageError(f"{path}: cannot be read: {error.strerror}") from None
    if not data:
        raise ImageError(f"{path}: the file is empty; fetch it again or remove it")
    return data


def _header(path: Path, data: bytes) -> str:
    """Format and size, from the header alone: about 1 % of the time of decoding."""
    if Image is None:
        return _format(path, data)
    try:
        with Image.open(io.BytesIO(data), formats=_FORMATS) as header:
            return f"{header.format} of {header.width}x{header.height} pixels"
    except Image.DecompressionBombError as error:
        raise ImageError(f"{path}: too large: {error}; scale it down") from None
    except (OSError, ValueError, SyntaxError):
        raise _no_picture(path, data) from None


def _format(path: Path, data: bytes) -> str:
    for beginning, name in _BEGINNINGS.items():
        if data.startswith(beginning):
            return name
    raise _no_picture(path, data)


def _no_picture(path: Path, data: bytes) -> ImageError:
    return ImageError(
        f"{path}: not a picture in a known format ({', '.join(_FORMATS)}), or damaged or cut "
        f"short; it starts with {data[:8]!r}"
    )


def _decoded(path: Path, data: bytes, flags: int) -> np.ndarray | None:
    """None where the pixels are damaged or end early: `imdecode` gives no partial pictures."""
    try:
        return cv2.imdecode(np.frombuffer(data, np.uint8), flags)
    except cv2.error as error:
        if "CV_IO_MAX_IMAGE" in str(error):
            raise ImageError(f"{path}: too large: {error.err}; scale it down") from None
        return None


def _size_wh(image: np.ndarray) -> tuple[int, int]:
    return image.shape[1], image.shape[0]


def _has_image_name(path: Path) -> bool:
    return path.suffix.lower() in _EXTENSIONS and not path.name.startswith(".")


def _natural(path: Path) -> list[str | int]:
    """Sorts frame2 before frame10; every odd part is a number."""
    parts = re.split("([0-9]+)", str(path))
    return [int(part) if i % 2 else part.casefold() for i, part in enumerate(parts)]
