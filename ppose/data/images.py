"""Reading image files as (H, W, 3) uint8 RGB, and listing them."""

from __future__ import annotations

import glob
import io
import re
from difflib import get_close_matches
from pathlib import Path

import cv2
import numpy as np

from ppose.utils.errors import PposeError
from ppose.utils.log import log
from ppose.utils.printable import printable

try:
    from PIL import Image
except ImportError:  # optional in deployment; OpenCV then limits the size
    Image = None  # type: ignore[assignment]

_FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "TIFF")
_MAGIC_BYTES = {
    **{b"\xff\xd8\xff": "JPEG", b"\x89PNG\r\n\x1a\n": "PNG", b"RIFF": "WEBP", b"BM": "BMP"},
    **{b"II*\0": "TIFF", b"MM\0*": "TIFF"},
}
_EXIF_ORIENTATION = 0x0112
_EXTENSIONS = frozenset((".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff"))


class ImageError(PposeError, ValueError):
    """An image that cannot be used; the message has the file, the reason and what to do."""


def read_image(path: str | Path, expected_size_wh: tuple[int, int] | None = None) -> np.ndarray:
    """(H, W, 3) uint8 RGB pixels of a JPEG, PNG, WebP, BMP or TIFF file.

    Grey images become three equal channels, 16 bits become 8, and alpha is dropped. The EXIF
    orientation is applied, unless only the stored pixels have the expected size: annotations
    refer to the pixels of the size that they give.

    Args:
        path: the file; the format is detected from its content.
        expected_size_wh: width and height in the annotations.

    Raises:
        ImageError: the file does not exist, is empty, is not an image, is damaged or truncated,
            has another size than expected, or has more than 179 million pixels (Pillow's limit
            against decompression bombs).
    """
    path = Path(path)
    data = _content(path)
    header = _header(path, data)
    image = _decoded(path, data, cv2.IMREAD_COLOR_RGB)
    if image is None:
        raise ImageError(
            f"{path}: damaged or truncated: {header}, but the pixels cannot be decoded; "
            "download the file again or remove it"
        )
    if expected_size_wh is None or expected_size_wh == _size_wh(image):
        return image
    stored = _decoded(path, data, cv2.IMREAD_COLOR_RGB | cv2.IMREAD_IGNORE_ORIENTATION)
    if stored is not None and _size_wh(stored) == expected_size_wh:
        return stored
    width, height = _size_wh(image)
    raise ImageError(
        f"{path}: is {width}x{height}, but annotated as {expected_size_wh[0]}x"
        f"{expected_size_wh[1]}, so keypoints would be misplaced; use the original images or "
        "scale the annotations"
    )


def image_size(path: Path) -> tuple[int, int] | None:
    """Width and height after rotation by EXIF, from the header; None if it cannot be read."""
    if Image is None:
        try:
            return _size_wh(read_image(path))
        except ImageError:
            return None
    try:
        with Image.open(path, formats=_FORMATS) as header:
            turned = header.getexif().get(_EXIF_ORIENTATION, 1) in (5, 6, 7, 8)
            return (header.height, header.width) if turned else (header.width, header.height)
    except Exception:  # Pillow raises many types for damaged files; reading the pixels names them
        return None


def list_images(images: str | Path) -> list[Path]:
    """The image files of a file, folder or glob pattern, in natural sort order.

    Args:
        images: a file of any name; a folder, without its subfolders; or a pattern, where `**`
            includes subfolders. Folders and patterns skip hidden files and files without the
            extension of an image.

    Raises:
        ImageError: no image found; the message says what exists instead.
    """
    path = Path(images)
    try:
        if path.is_file():
            return [path]
        if path.is_dir():
            found = list(path.iterdir())
        elif glob.has_magic(str(images)):
            found = _matches(str(images))
        elif path.exists():
            raise ImageError(f"{path}: neither an image file nor a folder")
        else:
            raise ImageError(f"image or folder {path} does not exist: {nearest_path(path)}")
    except (OSError, ValueError) as error:  # such as a name that is too long, or "**.jpg"
        if isinstance(error, ImageError):
            raise
        why = error.strerror if isinstance(error, OSError) else error
        raise ImageError(f"{str(images)[:200]}: cannot be searched for images: {why}") from None
    named = [p for p in found if _has_image_name(p)]
    files = [p for p in named if p.is_file()]
    if not files:
        others = f"; found {len(found)} other files" if found else ""
        raise ImageError(f"{images}: no images ({', '.join(sorted(_EXTENSIONS))}){others}")
    if unusable := sorted(set(named) - set(files)):
        log.warning(
            "left out: %d that have the name of an image but are no file, such as %s",
            *(len(unusable), printable(str(unusable[0]), keep="")),
        )
    return sorted(set(files), key=_natural_key)


def _matches(pattern: str) -> list[Path]:
    """What a glob pattern matches, without following links to folders, which may form circles."""
    parts = Path(pattern).parts
    fixed = next(n for n, part in enumerate(parts) if glob.has_magic(part))
    wanted = parts[fixed:] + ("*",) * (parts[-1] == "**")
    root = Path(*parts[:fixed])
    if not root.is_dir():
        return []
    found = root.glob(str(Path(*wanted)))
    hidden = any(part.startswith(".") for part in wanted)
    return [p for p in found if hidden or not _in_hidden_folder(p.relative_to(root))]


def _in_hidden_folder(path: Path) -> bool:
    return any(part.startswith(".") for part in path.parts[:-1])


def nearest_path(path: Path) -> str:
    """For errors about a missing path: the closest name in the deepest folder that exists.

    A data set that a script beside it downloads, or that `ppose synthetic` draws, is named so.
    """
    folder, name = path.absolute().parent, path.name
    while not folder.is_dir():
        folder, name = folder.parent, folder.name
    if (script := folder / f"download_{name}.py").is_file():
        return f"{folder} has no '{name}'; python {script} downloads it"
    if name.startswith("synthetic"):
        return f"{folder} has no '{name}'; ppose synthetic --output {folder / name} draws it"
    names = sorted(entry.name for entry in folder.iterdir() if not entry.name.startswith("."))
    close = get_close_matches(name, names[:10_000], 1)
    if close:
        return f"{folder} has no '{name}'; did you mean '{close[0]}'?"
    shown = ", ".join(names[:5]) + (", …" if len(names) > 5 else "")
    return f"{folder} has no '{name}'; it contains {shown or 'nothing'}"


def _content(path: Path) -> bytes:
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        raise ImageError(f"{path}: no such file") from None
    except OSError as error:
        raise ImageError(f"{path}: cannot be read: {error.strerror}") from None
    if not data:
        raise ImageError(f"{path}: the file is empty; download it again or remove it")
    return data


def _header(path: Path, data: bytes) -> str:
    """Format and size, read from the header in about 1 % of the decoding time."""
    if Image is None:
        return _format(path, data)
    try:
        with Image.open(io.BytesIO(data), formats=_FORMATS) as header:
            return f"a {header.format} of {header.width}x{header.height} pixels"
    except Image.DecompressionBombError as error:
        raise ImageError(f"{path}: too large: {error}; scale it down") from None
    except (OSError, ValueError, SyntaxError):
        raise _unknown_format(path, data) from None


def _format(path: Path, data: bytes) -> str:
    for magic_bytes, name in _MAGIC_BYTES.items():
        if data.startswith(magic_bytes):
            return f"a {name}"
    raise _unknown_format(path, data)


def _unknown_format(path: Path, data: bytes) -> ImageError:
    return ImageError(
        f"{path}: not an image in a known format ({', '.join(_FORMATS)}), or damaged or truncated; "
        f"it starts with {data[:8]!r}"
    )


def _decoded(path: Path, data: bytes, flags: int) -> np.ndarray | None:
    """None if the data is damaged or truncated: `imdecode` returns no partial images."""
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


def _natural_key(path: Path) -> list[str | int]:
    """Sorts frame2 before frame10; every odd part is a number."""
    parts = re.split("([0-9]+)", str(path))
    return [int(part) if i % 2 else part.casefold() for i, part in enumerate(parts)]
