"""Poses of files: drawn pictures and one JSON."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Protocol

import numpy as np

from ppose.data.boxes import BoxFile
from ppose.data.images import ImageError, list_images, read_image
from ppose.errors import PposeError
from ppose.estimator import Request
from ppose.files import write_json
from ppose.interrupt import terminable
from ppose.progress import progress
from ppose.skeleton import Skeleton
from ppose.structures import Poses
from ppose.visualize import save_image

_DRAWN_AS = frozenset((".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff"))


class Finder(Protocol):
    """What finds people: a `PoseEstimator`, or one with a detector."""

    @property
    def skeleton(self) -> Skeleton:
        """The joints that are found."""

    @property
    def uses_boxes(self) -> bool:
        """Whether pictures have to come with the boxes of people."""

    def run(
        self, requests: Iterable[Request], failed: list[ImageError] | None = None
    ) -> Iterator[Poses]:
        """See `PoseEstimator.run`."""


def infer(
    make_finder: Callable[[], Finder],
    pictures: str,
    output_dir: str | Path,
    *,
    boxes: list[list[float]] | None = None,
    bbox_file: str | None = None,
    min_box_score: float = 0.3,
    min_joint_score: float = 0.3,
) -> Finder:
    """Finds people in pictures, draws them, and writes `poses.json`.

    Args:
        make_finder: called once the other arguments are known to be right.
        pictures: a file, a folder or a pattern.
        output_dir: where to write. A picture keeps its name, with its folders before it where
            several have that name, and with .jpg behind it if it has no ending of a picture.
        boxes: x, y, width, height of people, for a single picture; top-down only, as the next.
        bbox_file: boxes of people in many pictures, see `BoxFile`.
        min_box_score: boxes of the file below it are left out.
        min_joint_score: joints below it are not drawn.

    Returns:
        the finder.

    Raises:
        PposeError: no picture could be read, the arguments contradict each other, or an input
            would be overwritten.
    """
    if boxes and bbox_file:
        raise PposeError("give boxes or a box file, not both")
    files = list_images(pictures)
    if boxes and len(files) > 1:
        raise PposeError(
            f"boxes were given for one picture, but there are {len(files)}; use a box file"
        )
    folder = Path(output_dir)
    path = folder / "poses.json"
    drawn = {file: folder / name for file, name in _output_names(files).items()}
    inputs = [*files, Path(bbox_file)] if bbox_file else files
    requests = _requests(files, boxes, bbox_file, min_box_score)
    _refuse_overwriting(inputs, [*drawn.values(), path])
    finder = make_finder()
    if finder.uses_boxes and not (boxes or bbox_file):
        print("no boxes of people: each picture is taken as one person who fills it")
    failed: list[ImageError] = []
    found: list[Poses] = []
    try:
        with terminable(), progress(len(requests), "infer", "image") as bar:
            for poses in finder.run(requests, failed):
                found.append(poses)
                file = Path(poses.file or "")
                save_image(drawn[file], poses.draw(read_image(file), min_score=min_joint_score))
                bar.update(len(found) + len(failed) - bar.n)
    finally:
        # What was found so far stays, whatever stops the rest.
        if found:
            write_json(path, _report(finder.skeleton, found))
    for error in failed:
        print(f"left out: {error}")
    if not found:
        raise PposeError("no picture could be read")
    scores = np.concatenate([poses.scores for poses in found])
    sure = np.count_nonzero(scores >= min_joint_score)
    people = f"{len(scores)} {'person' if len(scores) == 1 else 'people'}"
    print(
        f"{people} in {len(found)} picture{'s' * (len(found) > 1)}, {sure} of them scored "
        f"{min_joint_score:g} or more: {folder}, {path}"
    )
    return finder


def _requests(
    files: list[Path], boxes: list[list[float]] | None, bbox_file: str | None, min_score: float
) -> list[Request]:
    if boxes:
        given = np.array(boxes, np.float32)
        return [Request(file, given, box_source="given boxes") for file in files]
    if not bbox_file:
        return [Request(file) for file in files]
    table = BoxFile(bbox_file, min_score)
    for line in str(table.problems).splitlines():
        print(f"{table.path.name}: {line}")
    found = [table.of(file) for file in files]
    if not any(map(len, found)):
        raise PposeError(
            f"{table.path} has no box with a score of at least {min_score} for any of the "
            f"{len(files)} pictures; its file_name or image_id has to be that of the picture"
        )
    return [
        Request(file, rows[:, :4], rows[:, 4], table.path.name)
        for file, rows in zip(files, found, strict=True)
    ]


def _output_names(files: list[Path]) -> dict[Path, str]:
    """A file name for each picture, no two alike, even where upper and lower case are one.

    Pictures of one name are named by their path below the folder that all have in common.
    """
    common = os.path.commonpath([file.absolute().parent for file in files])
    bearers = Counter(file.name.casefold() for file in set(files))
    names: dict[Path, str] = {}
    taken: set[str] = set()
    for file in files:
        own = Path(file.name)
        if bearers[file.name.casefold()] > 1:
            own = Path("_".join(file.absolute().relative_to(common).parts))
        known = own.suffix.lower() in _DRAWN_AS
        stem, ending = (own.stem, own.suffix) if known else (own.name, ".jpg")
        names[file] = _unused(stem, ending, taken)
        taken.add(names[file].casefold())
    return names


def _unused(stem: str, ending: str, taken: set[str]) -> str:
    name, number = stem + ending, 2
    while name.casefold() in taken:
        name, number = f"{stem}_{number}{ending}", number + 1
    return name


def _refuse_overwriting(inputs: Iterable[Path], outputs: Iterable[Path]) -> None:
    """Compares files rather than paths, so that links count too."""
    read = {_identity(path) for path in inputs}
    for path in outputs:
        if path.exists() and _identity(path) in read:
            raise PposeError(
                f"the input {path} would be overwritten; choose another folder with --output_dir"
            )


def _identity(path: Path) -> tuple[int, int]:
    status = path.stat()
    return status.st_dev, status.st_ino


def _report(skeleton: Skeleton, found: list[Poses]) -> dict:
    return {
        "skeleton": skeleton.name,
        "joints": list(skeleton.joint_names),
        "images": [poses.to_dict() for poses in found],
    }
