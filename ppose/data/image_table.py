"""The usable images of an annotation file."""

from __future__ import annotations

import os
from array import array
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from operator import index as whole_number
from pathlib import Path
from reprlib import repr as short
from typing import Annotated, Any, overload

import msgspec
import numpy as np

from ppose.data.coco_json import NO_ID, as_id, id_column
from ppose.data.images import ImageError, nearest_path, read_image
from ppose.data.problems import DataError, Problems

Entry = dict[str, Any]


Id = Annotated[int, msgspec.Meta(gt=NO_ID, lt=-NO_ID)]


class ImageEntry(msgspec.Struct, gc=False):
    """Schema of a valid entry of `images`."""

    id: Id
    file_name: str
    width: int
    height: int


@dataclass(frozen=True, slots=True)
class ImageRecord:
    """One usable image of a dataset: id, file, and width and height in pixels."""

    image_id: int
    path: Path
    size_wh: tuple[int, int]


class ImageRecords(Sequence[ImageRecord]):
    """Image records, stored as columns and created on access.

    Columns stay shared between forked processes; a list of Python objects would be copied page by
    page, because reference counting writes to them.

    Attributes:
        ids: (N,) int64.
        sizes_wh: (N, 2) int32 width and height in pixels.
    """

    def __init__(self, folder: Path):
        self._folder = folder
        self._ids, self._sizes = array("q"), array("i")
        self._names, self._ends = bytearray(), array("q")

    def append(self, image_id: int, name: str, size_wh: tuple[int, int]) -> None:
        """Adds the image with file name `name` in the folder."""
        self._ids.append(image_id)
        self._sizes.extend(size_wh)
        self._names += name.encode(errors="surrogatepass")
        self._ends.append(len(self._names))

    @property
    def ids(self) -> np.ndarray:
        return np.array(self._ids, np.int64)

    @property
    def sizes_wh(self) -> np.ndarray:
        return np.array(self._sizes, np.int32).reshape(-1, 2)

    def __len__(self) -> int:
        return len(self._ids)

    @overload
    def __getitem__(self, index: int) -> ImageRecord: ...
    @overload
    def __getitem__(self, index: slice) -> list[ImageRecord]: ...
    def __getitem__(self, index: int | slice) -> ImageRecord | list[ImageRecord]:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        at = range(len(self))[whole_number(index)]
        start = self._ends[at - 1] if at else 0
        name = self._names[start : self._ends[at]].decode(errors="surrogatepass")
        size_wh = self._sizes[2 * at], self._sizes[2 * at + 1]
        return ImageRecord(self._ids[at], self._folder / name, size_wh)


class ImageTable:
    """The images of an annotation file, with lookup by id.

    Args:
        records: the usable images, in the order of the file.
        position: image id → index into `records`, or -1 for a skipped image.
    """

    def __init__(self, records: ImageRecords, position: dict[int, int]):
        self.records = records
        known = np.fromiter(position.keys(), np.int64, len(position))
        order = np.argsort(known)
        self._known = known[order]
        self._position = np.fromiter(position.values(), np.int32, len(position))[order]

    def index_of(self, image_ids: Sequence[Any] | np.ndarray) -> np.ndarray:
        """(N,) int32 indices into `records`; -1 for skipped images, -2 for unknown ids."""
        ids = image_ids if isinstance(image_ids, np.ndarray) else id_column(image_ids)
        if not len(self._known):
            return np.full(len(ids), -2, np.int32)
        index = np.minimum(np.searchsorted(self._known, ids), len(self._known) - 1)
        return np.where(self._known[index] == ids, self._position[index], -2).astype(np.int32)

    def describe(self, entry: Entry) -> str:
        """File, image id and annotation id of an entry with an `image_id`, for messages."""
        image_id = entry.get("image_id")
        at = int(self.index_of([image_id])[0])
        file = f"{self.records[at].path.name}, " if at >= 0 else ""
        own = f", annotation {short(entry['id'])}" if "id" in entry else ""
        return f"{file}image {short(image_id)}{own}"


def read_image_table(entries: Iterable[Any], image_dir: Path, problems: Problems) -> ImageTable:
    """The images whose files exist; folders are listed once, and image files are not opened.

    Args:
        entries: `ImageEntry`, or any other content of the list.
        image_dir: folder of the images.
        problems: receives what was skipped or repaired.

    Raises:
        DataError: `image_dir` does not exist.
    """
    if not image_dir.is_dir():
        raise DataError(f"image_dir: folder {image_dir} does not exist: {nearest_path(image_dir)}")
    folder = _Folder(image_dir)
    records = ImageRecords(image_dir)
    position: dict[int, int] = {}

    def skip(kind: str, entry: Entry) -> None:
        problems.add("skipped", kind, [entry], _image_name)

    for entry in entries:
        if isinstance(entry, ImageEntry):
            entry = msgspec.structs.asdict(entry)
        elif not isinstance(entry, dict):
            problems.add("skipped", "image that is not an object", [entry], short)
            continue
        image_id = as_id(entry.get("id"))
        if image_id == NO_ID:
            skip("image without an integer id", entry)
        elif position.get(image_id, -1) >= 0:
            skip("duplicate image id", entry)
        elif problem := folder.find_problem(entry.get("file_name")):
            position[image_id] = -1
            skip(problem, entry)
        else:
            size_wh = _size_wh(entry, image_dir, problems)
            position[image_id] = len(records) if size_wh else -1
            if size_wh:
                records.append(image_id, entry["file_name"], size_wh)
    return ImageTable(records, position)


class _Folder:
    """File sizes in a folder and those of its subfolders that are looked up."""

    def __init__(self, root: Path):
        self._root = root
        self._sizes: dict[str, dict[str, int]] = {}

    def find_problem(self, name: Any) -> str | None:
        """Why an image file cannot be used, judged by its name and size; None if it can."""
        if not isinstance(name, str) or not name:
            return "image without file_name"
        parent, _, file = name.rpartition("/")
        if name.startswith("/") or ".." in parent.split("/"):
            return "file_name outside image_dir"
        if parent not in self._sizes:
            self._sizes[parent] = dict(_file_sizes(self._root, parent))
        size = self._sizes[parent].get(file)
        return "missing image" if size is None else None if size else "empty image file"


def _file_sizes(root: Path, folder: str) -> Iterator[tuple[str, int]]:
    try:
        with os.scandir(root / folder) as entries:
            yield from ((e.name, e.stat().st_size) for e in entries if e.is_file())
    except (FileNotFoundError, NotADirectoryError, ValueError):
        return  # each missing image is reported


def _size_wh(entry: Entry, folder: Path, problems: Problems) -> tuple[int, int] | None:
    """Annotated size, or that of the image file; None if the file cannot be read."""
    width, height = _pixels(entry.get("width")), _pixels(entry.get("height"))
    if width and height:
        return width, height
    try:
        height, width, _ = read_image(folder / entry["file_name"]).shape
    except ImageError as error:
        message = str(error)
        problems.add("skipped", "unreadable image", [entry], lambda _: message)
        return None
    problems.add(
        "repaired", "image without width or height, read from the file", [entry], _image_name
    )
    return width, height


def _pixels(value: Any) -> int:
    """0 for an invalid number of pixels."""
    return int(value) if isinstance(value, int | float) and 1 <= value < 2**31 else 0


def _image_name(entry: Entry) -> str:
    name = entry.get("file_name")
    return f"{name if isinstance(name, str) else short(name)}, image {short(entry.get('id'))}"
