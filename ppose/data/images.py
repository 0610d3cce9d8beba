"""Reading image files as (H, W, 3) uint8 RGB, and listing them."""

from __future__ import annotations

import glob
import re
from difflib import get_close_matches
from pathlib import Path

import cv2
import numpy as np

from ppose.data.image_header import (
    MAX_PIXELS,
    DamagedImageError,
    ImageError,
    ImageTooLargeError,
    checked,
)
from ppose.utils.log import log
from ppose.utils.printable import printable

__all__ = ["ImageError", "decode_image", "list_images", "nearest_path", "read_image"]

_EXTENSIONS = frozenset((".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff"))


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
            has another size than expected, has more than 134 million pixels, or would take too
            long to decode (see `ppose.data.image_header`).
    """
    path = Path(path)
    data = _content(path)
    try:
        image = decode_image(data)
        width, height = _size_wh(image)
        if expected_size_wh in (None, (width, height)):
            return image
        if expected_size_wh == (height, width):
            stored = decode_image(data, upright=False)
            if _size_wh(stored) == expected_size_wh:
                return stored
    except DamagedImageError as error:
        raise DamagedImageError(f"{path}: {error}; download the file again or remove it") from None
    except ImageError as error:
        raise type(error)(f"{path}: {error}") from None
    raise ImageError(
        f"{path}: is {width}x{height}, but annotated as {expected_size_wh[0]}x"
        f"{expected_size_wh[1]}, so keypoints would be misplaced; use the original images or "
        "scale the annotations"
    )


def decode_image(data: bytes, max_pixels: int = MAX_PIXELS, *, upright: bool = True) -> np.ndarray:
    """(H, W, 3) uint8 RGB pixels of the content of an image file, see `read_image`.

    Args:
        data: content of the file.
        max_pixels: images with more pixels are not decoded.
        upright: apply the EXIF orientation.

    Raises:
        ImageError: see `ppose.data.image_header.checked`; or the pixels cannot be decoded.
    """
    header, data = checked(data, max_pixels)
    flags = cv2.IMREAD_COLOR_RGB | (0 if upright else cv2.IMREAD_IGNORE_ORIENTATION)
    try:
        image = cv2.imdecode(np.frombuffer(data, np.uint8), flags)
    except cv2.error as error:
        if "CV_IO_MAX_IMAGE" in str(error):
            raise ImageTooLargeError(f"too large: {error.err}; scale it down") from None
        image = None
    except MemoryError:
        raise ImageTooLargeError(f"too large: {header}; there is not enough memory") from None
    if image is None:
        raise DamagedImageError(f"damaged or truncated: {header}, but the pixels cannot be decoded")
    if sorted(image.shape[:2]) != sorted((header.height, header.width)):
        raise DamagedImageError(f"damaged: {header} by its header, but not by its pixels")
    return image


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
    except ValueError as error:  # a zero byte, or half of a surrogate pair
        raise ImageError(f"{str(path)!a}: not the name of a file: {error}") from None
    if not data:
        raise ImageError(f"{path}: the file is empty; download it again or remove it")
    return data


def _size_wh(image: np.ndarray) -> tuple[int, int]:
    return image.shape[1], image.shape[0]


def _has_image_name(path: Path) -> bool:
    return path.suffix.lower() in _EXTENSIONS and not path.name.startswith(".")


def _natural_key(path: Path) -> list[str | int]:
    """Sorts frame2 before frame10; every odd part is a number."""
    parts = re.split("([0-9]+)", str(path))
    return [int(part) if i % 2 else part.casefold() for i, part in enumerate(parts)]
