"""Writing rendered scenes as a dataset in COCO format."""

from __future__ import annotations

import json
import signal
import tempfile
import zlib
from collections.abc import Callable, Generator
from concurrent.futures import ProcessPoolExecutor
from contextlib import closing
from dataclasses import asdict, dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from ppose.structures.skeleton import COCO17
from ppose.synthetic.scene import SETTINGS, Difficulty, Scene, check_size, render_scene

# Increase it when the same seed gives different images.
GENERATOR_VERSION = 1

_PERSON = 1
_DIGITS = 6


class DatasetExistsError(ValueError):
    """The output path contains files that are not the requested dataset."""


@dataclass(frozen=True)
class Recipe:
    """All parameters that determine the bytes of a split; saved in `info` of its JSON file.

    Raises:
        ValueError: a value out of range.
    """

    split: str
    count: int
    seed: int
    size_wh: tuple[int, int]
    difficulty: Difficulty
    generator: int = GENERATOR_VERSION

    def __post_init__(self) -> None:
        if not self.split.isidentifier():
            raise ValueError(f"split: expected a name like 'train', found '{self.split}'")
        if not 1 <= self.count < 10**_DIGITS:
            raise ValueError(f"count: expected 1..{10**_DIGITS - 1} images, found {self.count}")
        if self.seed < 0:
            raise ValueError(f"seed: expected a number of at least 0, found {self.seed}")
        if self.difficulty not in SETTINGS:
            raise ValueError(
                f"difficulty: expected {', '.join(SETTINGS)}; found '{self.difficulty}'"
            )
        check_size(self.size_wh)

    def to_dict(self) -> dict[str, Any]:
        """JSON-serializable dict."""
        return asdict(self) | {"size_wh": list(self.size_wh)}

    def scene(self, index: int) -> Scene:
        """Renders image `index`, a pure function of the recipe and the index."""
        rng = np.random.default_rng([self.seed, zlib.crc32(self.split.encode()), index])
        return render_scene(rng, self.size_wh, self.difficulty)


def write_coco(
    output_dir: Path | str,
    split: str,
    count: int,
    seed: int,
    size_wh: tuple[int, int] = (320, 240),
    difficulty: Difficulty = "normal",
    workers: int = 1,
    on_image: Callable[[], Any] | None = None,
) -> bool:
    """Writes `<output_dir>/<split>/000000.jpg` … and `annotations/person_keypoints_<split>.json`.

    Images are written to a temporary folder in `output_dir` and moved when all are done; the JSON
    file comes last, so a split that has one is complete. A killed process can leave a hidden folder
    `.<split>-…`, which is ignored. The bytes do not depend on `workers`, and image i does not
    depend on `count`.

    Args:
        output_dir: created if it does not exist.
        split: name of the split; splits have different images for the same seed.
        count: number of images.
        seed: at least 0.
        size_wh: width and height of the images.
        difficulty: see `render_scene`.
        workers: number of processes; with more than 1 the caller's main module must be importable.
        on_image: called after each image.

    Returns:
        False if the same split already exists and nothing was done, else True.

    Raises:
        DatasetExistsError: other files exist in the output path.
        ValueError: an argument is out of range.
        OSError: the output path cannot be written.
    """
    recipe = Recipe(split, count, seed, size_wh, difficulty)
    if workers < 1:
        raise ValueError(f"workers: expected at least 1, found {workers}")
    output = Path(output_dir)
    images, annotations = split_paths(output, split)
    if is_complete(output, recipe):
        return False
    annotations.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{split}-", dir=output) as scratch:
        rendered = Path(scratch, "images")
        rendered.mkdir()
        people = []
        # Closed before the folder is removed, so that no worker still writes to it.
        with closing(_render_all(recipe, rendered, workers)) as results:
            for found in results:
                people.append(found)
                if on_image:
                    on_image()
        listing = Path(scratch, "annotations.json")
        listing.write_text(json.dumps(_coco(recipe, people), separators=(",", ":")))
        rendered.rename(images)
        listing.replace(annotations)
    return True


def split_paths(output_dir: Path, split: str) -> tuple[Path, Path]:
    """Image folder and annotation file of a split."""
    return output_dir / split, output_dir / "annotations" / f"person_keypoints_{split}.json"


def is_complete(output_dir: Path, recipe: Recipe) -> bool:
    """Whether the split of this recipe exists with all its images.

    Raises:
        DatasetExistsError: other files exist in its place.
    """
    images, annotations = split_paths(output_dir, recipe.split)
    advice = "choose another output folder, or remove these files"
    if not annotations.exists():
        if images.exists():
            raise DatasetExistsError(f"{images} exists, but {annotations} does not; {advice}")
        return False
    try:
        found = dict(json.loads(annotations.read_text())["info"]["recipe"])
    except (ValueError, LookupError, TypeError) as error:
        raise DatasetExistsError(f"{annotations} was not made by this tool; {advice}") from error
    wanted = recipe.to_dict()
    if found != wanted:
        changed = [
            f"{k} {found.get(k)} (requested: {v})" for k, v in wanted.items() if found.get(k) != v
        ]
        raise DatasetExistsError(f"{annotations} has {', '.join(changed)}; {advice}")
    missing = sum(not (images / _file_name(i)).is_file() for i in range(recipe.count))
    if missing:
        raise DatasetExistsError(
            f"{images} lacks {missing} of the {recipe.count} images in {annotations}; {advice}"
        )
    return True


def _file_name(index: int) -> str:
    return f"{index:0{_DIGITS}d}.jpg"


def _render_all(
    recipe: Recipe, folder: Path, workers: int
) -> Generator[list[dict[str, Any]], None, None]:
    """Writes all images to `folder` and yields the people of each image, in order."""
    tasks = ((recipe, folder, index) for index in range(recipe.count))
    if workers == 1:
        yield from map(_render, tasks)
        return
    with ProcessPoolExecutor(workers, get_context("spawn"), initializer=_init_worker) as pool:
        try:
            yield from pool.map(_render, tasks, chunksize=8)
        except BaseException:
            # Otherwise closing the pool would wait for all queued tasks.
            pool.shutdown(cancel_futures=True)
            raise


def _init_worker() -> None:
    # Threads inside the workers would compete for the cores.
    cv2.setNumThreads(1)
    # The parent handles Ctrl-C and stops its workers.
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def _render(task: tuple[Recipe, Path, int]) -> list[dict[str, Any]]:
    recipe, folder, index = task
    scene = recipe.scene(index)
    (folder / _file_name(index)).write_bytes(encode_jpeg(scene))
    return people_of(scene)


def encode_jpeg(scene: Scene) -> bytes:
    """The image as bytes of a JPEG file."""
    quality = [cv2.IMWRITE_JPEG_QUALITY, scene.jpeg_quality]
    done, data = cv2.imencode(".jpg", cv2.cvtColor(scene.image, cv2.COLOR_RGB2BGR), quality)
    if not done:
        raise OSError("OpenCV cannot encode JPEG on this machine")
    return data.tobytes()


def people_of(scene: Scene) -> list[dict[str, Any]]:
    """COCO annotations of the scene's people, without ids."""
    return [
        {
            "category_id": _PERSON,
            "iscrowd": 0,
            "area": int(mask.sum()),
            "bbox": box.tolist(),
            "num_keypoints": int((keypoints[:, 2] > 0).sum()),
            "keypoints": _plain_keypoints(keypoints),
            "segmentation": polygons(mask),
        }
        for keypoints, mask, box in zip(scene.keypoints, scene.masks, scene.boxes_xywh, strict=True)
    ]


def _plain_keypoints(keypoints: np.ndarray) -> list[float]:
    flat: list[float] = []
    for x, y, visibility in keypoints.astype(np.float64).round(2).tolist():
        flat += [x, y, int(visibility)]
    return flat


def polygons(mask: np.ndarray) -> list[list[float]]:
    """COCO polygons of a (H, W) bool mask: flat lists x, y, x, y, … of corner coordinates.

    For pycocotools, pixel (i, j) covers i..i+1 and j..j+1. The contour of the mask at twice the
    size runs a quarter pixel inside these borders, so filling the polygons restores the mask. COCO
    polygons have no holes, so each hole is connected to the outside by a slit.
    """
    top, left = (int(np.flatnonzero(mask.any(axis))[0]) for axis in (1, 0))
    bottom, right = (int(np.flatnonzero(mask.any(axis))[-1]) + 1 for axis in (1, 0))
    crop = mask[top:bottom, left:right].astype(np.uint8)
    double = cv2.resize(crop, None, fx=2, fy=2, interpolation=cv2.INTER_NEAREST)
    _open_holes(double)
    contours, _ = cv2.findContours(double, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
    found = []
    for contour in contours:
        polygon = cv2.approxPolyDP(contour, 0.75, True)[:, 0]
        if len(polygon) >= 3:
            corners = (polygon + 0.5) / 2 + (left, top)
            found.append(corners.ravel().tolist())
    return found


def _open_holes(mask: np.ndarray) -> None:
    """Cuts a slit of one pixel upwards from the top of each hole in a uint8 mask."""
    contours, tree = cv2.findContours(mask, cv2.RETR_CCOMP, cv2.CHAIN_APPROX_NONE)
    for contour, (_, _, _, parent) in zip(contours, tree[0] if contours else (), strict=True):
        if parent < 0:
            continue
        x, y = contour[contour[:, 0, 1].argmin(), 0]
        outside = np.flatnonzero(mask[:y, x] == 0)
        mask[outside[-1] + 1 if len(outside) else 0 : y + 1, x] = 0


def _coco(recipe: Recipe, people: list[list[dict[str, Any]]]) -> dict[str, Any]:
    width, height = recipe.size_wh
    annotations: list[dict[str, Any]] = []
    for image_id, found in enumerate(people):
        for person in found:
            # COCOeval treats the id 0 as "no match".
            annotations.append({"id": len(annotations) + 1, "image_id": image_id, **person})
    return {
        "info": {
            "description": "Drawn people with keypoints, made by tools/make_synthetic.py",
            "recipe": recipe.to_dict(),
        },
        "licenses": [
            {
                "id": 1,
                "name": "Apache-2.0",
                "url": "https://www.apache.org/licenses/LICENSE-2.0",
            }
        ],
        "categories": [
            {
                "id": _PERSON,
                "name": "person",
                "supercategory": "person",
                "keypoints": list(COCO17.joint_names),
                "skeleton": (COCO17.limb_index + 1).tolist(),
            }
        ],
        "images": [
            {
                "id": index,
                "file_name": _file_name(index),
                "width": width,
                "height": height,
                "license": 1,
            }
            for index in range(recipe.count)
        ],
        "annotations": annotations,
    }
