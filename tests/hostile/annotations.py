"""Hostile JSON: annotations, segmentations, boxes of a detector, poses, results."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from itertools import islice
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from hostile.harness import Reader
from ppose.data.boxes import BoxFile
from ppose.data.coco import CocoDataset
from ppose.data.crops import ImageFit
from ppose.data.images import ImageError
from ppose.data.multi_person import CocoMultiPerson
from ppose.data.transforms import Warp, apply_transforms
from ppose.metrics.coco_metric import CocoMetric
from ppose.structures import Poses
from ppose.structures.skeleton import Joint, Skeleton

FIVE = Skeleton("five", [Joint(name, 0.05) for name in ("head", "hand", "hip", "knee", "foot")], [])
SIZE = (64, 48)
NAMES = ("a.png", "b.png")

_NUMBERS = [0, 1, -1, 2, 139, 48, 64, 0.5, -0.0, 1e308, -1e308, 1e-320, 2**31, 2**62, 2**63, 10**40]
_WORDS = ["", "a.png", "../a.png", "/etc/passwd", "a\0b", "\ud800.jpg", "\x1b[31m", "é", "person"]
_RAW = ["NaN", "Infinity", "-Infinity", "1e999", "9" * 400, "9" * 5000, "-0", "nul", '"\\ud800"']


class _Raw(str):
    """Text that is written as it is, whether it is JSON or not."""


def _anything(rng: random.Random, depth: int = 0) -> Any:
    kind = rng.choice([0, 1, 2, 3, 4, 5, *[[6, 7, 8], [6, 7], []][min(depth, 2)]])
    if kind == 0:
        return rng.choice(_NUMBERS)
    if kind == 1:
        return rng.choice(_WORDS) * rng.choice([1, 1, 1, 1 if depth else 3000])
    if kind == 2:
        return rng.choice([None, True, False])
    if kind in (3, 4):
        return rng.uniform(-10, 100)
    if kind == 5:
        return _Raw(rng.choice(_RAW))
    if kind == 6:
        length = rng.choice([0, 1, 3, 4, 15])
        return [_anything(rng, depth + 1) for _ in range(length)]
    if kind == 7:
        keys = ["id", "bbox", "size", "counts", "people", rng.choice(_WORDS)]
        return {key: _anything(rng, depth + 1) for key in rng.sample(keys, rng.randrange(4))}
    return _nested(rng)


def _nested(rng: random.Random) -> _Raw:
    """Lists or objects inside each other, sometimes not closed; or very many elements."""
    depth = rng.choice([10, 900, 1100, 100_000])
    start, end = rng.choice([("[", "]"), ('{"id":', "}"), ('{"segmentation":[', "]}")])
    if rng.random() < 0.3:
        return _Raw("[" + ",".join(["1"] * rng.choice([1000, 500_000])) + "]")
    return _Raw(start * depth + "0" + end * (depth - rng.choice([0, 0, 0, 1])))


def _text(value: Any) -> str:
    if isinstance(value, _Raw):
        return str(value)
    if isinstance(value, list):
        return "[" + ",".join(map(_text, value)) + "]"
    if isinstance(value, dict):
        return "{" + ",".join(f"{json.dumps(k)}:{_text(v)}" for k, v in value.items()) + "}"
    return json.dumps(value)


def _box(rng: random.Random) -> list[float]:
    return [rng.uniform(0, 30), rng.uniform(0, 20), rng.uniform(5, 30), rng.uniform(5, 25)]


def _runs(rng: random.Random) -> Any:
    """Run lengths that fit, overflow, or are no run lengths."""
    size = rng.choice([[48, 64], [64, 48], [2**16, 2**15], [2**31, 2], [-1, -3072], [48], "48"])
    counts: Any = rng.choice([[1000, 2072], [3072], [0, 2**32], [-1, 3073], [1] * 3072, [2**40]])
    if rng.random() < 0.6:
        counts = "".join(chr(rng.randint(40, 120)) for _ in range(rng.choice([0, 3, 50, 4000])))
        counts = rng.choice([counts, "o" * 9, "PPYo0", "\ud800"])
    return {"size": size, "counts": counts}


def _segmentation(rng: random.Random) -> Any:
    if rng.random() < 0.4:
        return _runs(rng)
    numbers = [1.0, 63.0, -5.0, 1e30, -1e38, 1e300, 2**40, 0.0]
    corners = [rng.choice([rng.uniform(0, 60), rng.choice(numbers)]) for _ in range(12)]
    return [corners[: rng.choice([0, 4, 6, 7, 12])] for _ in range(rng.randrange(4))]


def _image(number: int) -> dict[str, Any]:
    name = NAMES[number % 2]
    return {"id": number + 1, "file_name": name, "width": SIZE[0], "height": SIZE[1]}


def _person(rng: random.Random, number: int) -> dict[str, Any]:
    x, y, width, height = _box(rng)
    joints = [v for _ in range(5) for v in (x + rng.random() * width, y + rng.random() * height, 2)]
    return {
        "id": number,
        "image_id": rng.choice([1, 2]),
        "category_id": rng.choice([1, 1, 2]),
        "bbox": [x, y, width, height],
        "area": rng.uniform(50, 800),
        "iscrowd": int(rng.random() < 0.1),
        "keypoints": joints,
        "segmentation": _segmentation(rng),
    }


def _annotations(rng: random.Random) -> Any:
    joints = list(FIVE.joint_names)
    return {
        "images": [_image(number) for number in range(2)],
        "annotations": [_person(rng, number) for number in range(rng.choice([1, 5, 40]))],
        "categories": [
            {"id": 1, "name": "person", "keypoints": joints},
            {"id": 2, "name": "ape", "keypoints": joints},
        ],
    }


def _detections(rng: random.Random) -> Any:
    return [
        {"image_id": rng.choice([1, 2]), "category_id": 1, "bbox": _box(rng), "score": rng.random()}
        for _ in range(rng.choice([1, 30]))
    ]


def _poses(rng: random.Random) -> Any:
    people = [{"box_xywh": _box(rng), "score": rng.random(), "keypoints": [[1, 2, 0.5]] * 5}]
    return {
        "skeleton": "five",
        "images": [{"image": name, "image_id": None, "people": people} for name in NAMES],
    }


def _boxes(rng: random.Random) -> Any:
    return rng.choice([_annotations, _detections, _poses])(rng)


def _places(value: Any) -> list[tuple[Any, Any]]:
    """All containers of a document, with the keys that they have."""
    if isinstance(value, dict):
        keys: list[Any] = list(value)
    elif isinstance(value, list):
        keys = list(range(len(value)))
    else:
        return []
    return [(value, key) for key in keys] + [p for key in keys for p in _places(value[key])]


def _hurt(make: Callable[[random.Random], Any]) -> Callable[[random.Random], bytes]:
    """A document with some values replaced, dropped or repeated, and sometimes its text damaged."""

    def generate(rng: random.Random) -> bytes:
        document = make(rng)
        for _ in range(rng.choice([0, 1, 1, 2, 5, 20])):
            places = _places(document)
            if not places:
                break
            holder, key = rng.choice(places)
            action = rng.randrange(4)
            if action == 0 and isinstance(holder, list):
                holder.insert(key, holder[key])
            elif action == 1:
                del holder[key]
            else:
                holder[key] = _anything(rng)
        if rng.random() < 0.05:
            document = _anything(rng)
        data = _text(document).encode(errors="surrogatepass")
        if rng.random() < 0.15:
            at = rng.randrange(len(data) + 1)
            data = rng.choice([data[:at], data[:at] + b"\xff\0" + data[at:], data + data, b""])
        return data

    return generate


def _images(path: Path) -> Path:
    folder = path.parent / "images"
    folder.mkdir(exist_ok=True)
    for name in NAMES:
        if not (folder / name).exists():
            cv2.imwrite(str(folder / name), np.full((SIZE[1], SIZE[0], 3), 90, np.uint8))
    return folder


def _scored(dataset: CocoDataset) -> str:
    """As `ppose eval` does, with poses where the boxes are."""
    print(dataset.summary())
    metric = CocoMetric()
    metric.reset(tuple(dataset.categories))
    for record, people in islice(dataset.by_image(), 20):
        boxes = dataset.boxes_xywh[people]
        middles = np.repeat((boxes[:, None, :2] + boxes[:, None, 2:] / 2), 5, 1)
        joints = np.concatenate([middles, np.full((len(people), 5, 1), 0.5)], 2)
        metric.update(
            Poses(
                keypoints=np.nan_to_num(joints).astype(np.float32),
                scores=dataset.box_scores[people],
                boxes_xywh=boxes,
                box_source=dataset.box_source,
                skeleton=FIVE,
                image_id=record.image_id,
                category_ids=dataset.category_ids[people],
            )
        )
    scores = metric.compute(dataset.ground_truth())
    return scores.table() + json.dumps(scores.to_dict()) + json.dumps(metric.results())


def _read_annotations(path: Path) -> object:
    return _scored(CocoDataset(str(_images(path)), str(path), FIVE))


def _read_scenes(path: Path) -> object:
    dataset = CocoMultiPerson(
        str(_images(path)), str(path), FIVE, min_joints=0, min_area=0, spacing=0
    )
    print(dataset.summary())
    rng = np.random.default_rng(0)
    for index in range(min(len(dataset), 4)):
        try:
            sample = dataset[index]
        except ImageError:
            continue
        apply_transforms(sample, [ImageFit((32, 32)), Warp()], rng)
    return None


def _read_boxes(path: Path) -> object:
    boxes = BoxFile(path, min_score=0.3)
    return str(boxes.problems), [boxes.of(_images(path) / name) for name in NAMES]


def _read_detections(path: Path) -> object:
    annotations = path.parent / "truth" / "annotations.json"
    annotations.parent.mkdir(exist_ok=True)
    annotations.write_text(json.dumps(_annotations(random.Random(0))))
    return _scored(CocoDataset(str(_images(path)), str(annotations), FIVE, str(path)))


READERS = [
    Reader("annotations", ".json", _hurt(_annotations), _read_annotations),
    Reader("scenes", ".json", _hurt(_annotations), _read_scenes),
    Reader("box files", ".json", _hurt(_boxes), _read_boxes),
    Reader("bbox_file", ".json", _hurt(_boxes), _read_detections),
]
