"""Poses of files: drawn pictures and one JSON."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from ppose.api import load_chosen
from ppose.data.boxes import BoxFile
from ppose.data.images import ImageError, list_images, read_image
from ppose.engine.predict import PoseEstimator, Request
from ppose.errors import PposeError
from ppose.experiment import Experiment
from ppose.files import write_json
from ppose.progress import progress
from ppose.structures import Poses
from ppose.visualize import save_image


def infer(
    experiment: Experiment,
    pictures: str,
    output_dir: str | None = None,
    boxes: list[list[float]] | None = None,
    bbox_file: str | None = None,
    min_box_score: float = 0.3,
    min_joint_score: float = 0.3,
) -> None:
    """Finds people in pictures, draws them, and writes `poses.json`.

    Args:
        experiment: network and weights.
        pictures: a file, a folder or a pattern.
        output_dir: where to write; None for `infer` in the run's folder.
        boxes: x, y, width, height of people, for a single picture.
        bbox_file: boxes of people in many pictures, see `BoxFile`.
        min_box_score: boxes of the file below it are left out.
        min_joint_score: joints below it are not drawn.

    Raises:
        PposeError: no picture could be read, or the arguments contradict each other.
    """
    files = list_images(pictures)
    if boxes and len(files) > 1:
        raise PposeError(
            f"boxes were given for one picture, but there are {len(files)}; use a box file"
        )
    requests = list(_requests(files, boxes, bbox_file, min_box_score))
    estimator = load_chosen(experiment)
    folder = Path(output_dir or Path(experiment.output_dir) / "infer")
    names = _output_names(files)
    failed: list[ImageError] = []
    found: list[Poses] = []
    with progress(total=len(requests), label="infer", unit="image") as bar:
        for poses in estimator.run(requests, failed):
            found.append(poses)
            file = Path(poses.file or "")
            save_image(
                folder / names[file], poses.draw(read_image(file), min_score=min_joint_score)
            )
            bar.update(len(found) + len(failed) - bar.n)
    for error in failed:
        print(f"left out: {error}")
    if not found:
        raise PposeError("no picture could be read")
    path = folder / "poses.json"
    write_json(path, _report(estimator, found))
    people = sum(map(len, found))
    print(f"{people} people in {len(found)} pictures: {folder}, {path}")


def _requests(
    files: list[Path], boxes: list[list[float]] | None, bbox_file: str | None, min_score: float
) -> Iterator[Request]:
    table = BoxFile(bbox_file, min_score) if bbox_file else None
    for file in files:
        if table:
            found = table.of(file)
            yield Request(file, found[:, :4], found[:, 4], table.path.name)
        elif boxes:
            yield Request(file, np.array(boxes, np.float32), None, "given boxes")
        else:
            yield Request(file)
    if table and not any(len(table.of(file)) for file in files):
        raise PposeError(
            f"{table.path} has no box with a score of at least {min_score} for any of the "
            f"{len(files)} pictures; its file_name or image_id has to be that of the picture"
        )


def _output_names(files: list[Path]) -> dict[Path, str]:
    """A file name for each picture; pictures of one name in two folders get their folder's."""
    names = [file.name for file in files]
    return {
        file: file.name if names.count(file.name) == 1 else "_".join(file.parts[-2:])
        for file in files
    }


def _report(estimator: PoseEstimator, found: list[Poses]) -> dict:
    return {
        "skeleton": estimator.skeleton.name,
        "joints": list(estimator.skeleton.joint_names),
        "images": [poses.to_dict() for poses in found],
    }
