"""Pose estimation on image files: drawn images and a JSON file."""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Callable, Iterable
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

import numpy as np

from ppose.data.boxes import BoxFile
from ppose.data.images import ImageError, list_images
from ppose.inference.pose_model import PoseModel
from ppose.inference.request import Request
from ppose.structures import Poses
from ppose.structures.skeleton import Skeleton
from ppose.structures.visualize import save_image
from ppose.utils.errors import PposeError
from ppose.utils.files import RecordFile, file_name, finite
from ppose.utils.interrupt import sigterm_as_interrupt
from ppose.utils.printable import printable
from ppose.utils.progress import progress

_IMAGE_SUFFIXES = frozenset((".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff"))


def infer(
    make_finder: Callable[[], PoseModel],
    pictures: str,
    output_dir: str | Path,
    *,
    boxes: list[list[float]] | None = None,
    bbox_file: str | None = None,
    min_box_score: float = 0.3,
    min_joint_score: float = 0.3,
) -> PoseModel:
    """Estimates the poses in image files, draws them, and writes `poses.json`.

    Both as they are found: whatever ends the run, each drawing is whole, and `poses.json` holds all
    people found so far. A file name that is not UTF-8 is in it as Python has it, with an escape for
    each such byte (`os.fsdecode`), and `os.fsencode` gives the name again.

    Args:
        make_finder: creates the model; called after the other arguments have been checked.
        pictures: an image file, a folder or a glob pattern.
        output_dir: output folder. A drawn image keeps its file name. Files of the same name get
            their folders as a prefix, and .jpg is appended if the suffix is not that of an image.
        boxes: x, y, width, height of people in a single image; top-down only.
        bbox_file: boxes of people in several images, see `BoxFile`; top-down only.
        min_box_score: boxes of the file below it are ignored.
        min_joint_score: joints below it are not drawn.

    Returns:
        the model.

    Raises:
        PposeError: no image could be read, the arguments contradict each other, or an input
            would be overwritten.
        WriteError: there is no room for a result.
    """
    if boxes and bbox_file:
        raise PposeError("give boxes or a box file, not both")
    files = list_images(pictures)
    if boxes and len(files) > 1:
        raise PposeError(
            f"boxes were given for one image, but there are {len(files)}; use a box file"
        )
    folder = Path(output_dir)
    path = folder / "poses.json"
    drawn = {file: folder / name for file, name in _output_names(files).items()}
    inputs = [*files, Path(bbox_file)] if bbox_file else files
    requests = _requests(files, boxes, bbox_file, min_box_score)
    _check_overwriting(inputs, [*drawn.values(), path])
    finder = make_finder()
    if finder.caution:
        print(finder.caution)
    if finder.uses_boxes and not (boxes or bbox_file):
        print("no boxes of people: each image is treated as one person who fills it")
    failed: list[ImageError] = []
    found: list[Poses] = []
    with ExitStack() as stack:
        stack.enter_context(sigterm_as_interrupt())
        bar = stack.enter_context(progress(len(requests), "infer", "image"))
        for poses in finder.run(requests, failed):
            if not found:
                report = _report(path, finder.skeleton)
                stack.callback(report.close)
            report.add(json.dumps(finite(poses.to_dict())))
            found.append(replace(poses, image=None))
            assert poses.file is not None and poses.image is not None
            drawing = poses.draw(poses.image, min_score=min_joint_score)
            save_image(drawn[poses.file], drawing)
            bar.update(len(found) + len(failed) - bar.n)
    for error in failed:
        print(f"left out: {error}")
    if not found:
        raise PposeError("no image could be read")
    scores = np.concatenate([poses.scores for poses in found])
    confident = np.count_nonzero(scores >= min_joint_score)
    people = f"{len(scores)} {'person' if len(scores) == 1 else 'people'}"
    print(
        f"{people} in {len(found)} image{'s' * (len(found) > 1)}, {confident} of them scored "
        f"{min_joint_score:g} or more: {printable(f'{folder}, {path}')}"
    )
    return finder


def _requests(
    files: list[Path], boxes: list[list[float]] | None, bbox_file: str | None, min_score: float
) -> list[Request]:
    if boxes:
        given = np.array(boxes, np.float32)
        return [Request(file, given, box_source="given boxes", keep_image=True) for file in files]
    if not bbox_file:
        return [Request(file, keep_image=True) for file in files]
    table = BoxFile(bbox_file, min_score)
    for line in str(table.problems).splitlines():
        print(printable(f"{table.path.name}: {line}"))
    found = [table.of(file) for file in files]
    if not any(map(len, found)):
        raise PposeError(
            f"{table.path} has no box with a score of at least {min_score} for any of the "
            f"{len(files)} images; its file_name or image_id has to be that of an image"
        )
    return [
        Request(file, rows[:, :4], rows[:, 4], table.path.name, keep_image=True)
        for file, rows in zip(files, found, strict=True)
    ]


def _output_names(files: list[Path]) -> dict[Path, str]:
    """A unique file name for each image, also on case-insensitive file systems.

    Images of the same name are named by their path relative to the common folder of all.
    """
    common = os.path.commonpath([file.absolute().parent for file in files])
    counts = Counter(file.name.casefold() for file in set(files))
    names: dict[Path, str] = {}
    taken: set[str] = set()
    for file in files:
        own = Path(file.name)
        if counts[file.name.casefold()] > 1:
            own = Path("_".join(file.absolute().relative_to(common).parts))
        known = own.suffix.lower() in _IMAGE_SUFFIXES
        stem, suffix = (own.stem, own.suffix) if known else (own.name, ".jpg")
        names[file] = _unused(stem, suffix, taken)
        taken.add(names[file].casefold())
    return names


def _unused(stem: str, suffix: str, taken: set[str]) -> str:
    number = 1
    while True:
        end = suffix if number == 1 else f"_{number}{suffix}"
        name = file_name(stem, end)
        if name.casefold() not in taken:
            return name
        number += 1


def _check_overwriting(inputs: Iterable[Path], outputs: Iterable[Path]) -> None:
    """Raises PposeError if an output is an input; compares files, not paths, because of links."""
    read = {_identity(path) for path in inputs}
    for path in outputs:
        if path.exists() and _identity(path) in read:
            raise PposeError(
                f"the input {path} would be overwritten; choose another folder with --output_dir"
            )


def _identity(path: Path) -> tuple[int, int]:
    status = path.stat()
    return status.st_dev, status.st_ino


def _report(path: Path, skeleton: Skeleton) -> RecordFile:
    about = {"skeleton": skeleton.name, "joints": list(skeleton.joint_names)}
    return RecordFile(path, json.dumps(about)[:-1] + ', "images": [\n', "]}\n", ",\n")
