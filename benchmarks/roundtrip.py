"""Upper bound of each codec: COCO AP when its own targets are decoded.

    python benchmarks/roundtrip.py [--annotations FILE] [--json FILE]

Bottom-up, images are letterboxed to the input size; top-down, people are cropped by their annotated
boxes. No network is used. The default file holds the people of 28 images of COCO train2017.
"""

import json
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from report import ROOT, parser, report

from ppose.codecs import BodyParts, Heatmap
from ppose.codecs.part_layout import SIMPLEPOSE
from ppose.data.crops import BoxCrop
from ppose.inference.postprocess import Postprocess
from ppose.metrics.coco_metric import CocoMetric
from ppose.structures import Poses, geometry
from ppose.structures.skeleton import COCO17

BOTTOM_UP = [(256, 4), (384, 4), (512, 2), (512, 4), (512, 8), (640, 4)]
TOP_DOWN = [
    ("msra, quarter", {"target": "msra", "refine": "quarter"}),
    ("dark, dark", {"target": "dark", "refine": "dark"}),
    ("udp, dark", {"target": "udp", "refine": "dark", "alignment": "udp", "shift_flip": False}),
]
TOP_DOWN_SIZES = [(96, 128), (192, 256), (288, 384)]


@dataclass
class AnnotatedImage:
    """An image with the (P, 17, 3) keypoints and (P, 4) boxes of its people."""

    image_id: int
    size_wh: tuple[int, int]
    keypoints: np.ndarray
    boxes_xywh: np.ndarray


def annotated_images(annotations: dict) -> Iterator[AnnotatedImage]:
    """The images with at least one labelled person."""
    people = defaultdict(list)
    for person in annotations["annotations"]:
        if person["num_keypoints"] and not person["iscrowd"]:
            people[person["image_id"]].append(person)
    for image in annotations["images"]:
        if found := people[image["id"]]:
            keypoints = np.array([p["keypoints"] for p in found], np.float32).reshape(-1, 17, 3)
            boxes = np.array([p["bbox"] for p in found], np.float32)
            yield AnnotatedImage(image["id"], (image["width"], image["height"]), keypoints, boxes)


def bottom_up(codec: BodyParts, image: AnnotatedImage) -> tuple[np.ndarray, np.ndarray]:
    """Keypoints and score factors decoded from the targets of a letterboxed image."""
    matrix = geometry.letterbox(image.size_wh, codec.size_wh)
    moved = image.keypoints.copy()
    moved[..., :2] = geometry.transform_points(matrix, moved[..., :2])
    found, factors = codec.decode_keypoints(codec.encode_keypoints(moved)["target"])
    found[..., :2] = geometry.transform_points(np.linalg.inv(matrix), found[..., :2])
    return found, factors


def top_down(codec: Heatmap, crop: BoxCrop, image: AnnotatedImage) -> tuple[np.ndarray, np.ndarray]:
    """The same with a crop for each person."""
    matrices = np.stack([crop.matrix(box) for box in image.boxes_xywh])
    moved = image.keypoints.copy()
    moved[..., :2] = geometry.transform_points(matrices, moved[..., :2])
    found = codec.decode_keypoints(
        np.stack([codec.encode_keypoints(person)["target"] for person in moved])
    )
    found[..., :2] = geometry.transform_points(np.linalg.inv(matrices), found[..., :2])
    return found, np.ones(len(found), np.float32)


def scored(
    annotations: dict, decode: Callable[[AnnotatedImage], tuple[np.ndarray, np.ndarray]]
) -> dict[str, float | int]:
    """AP and AR in percent, and the numbers of annotated and detected people."""
    metric, postprocess = CocoMetric(), Postprocess(min_joint_score=0.0, oks_nms=None)
    metric.reset([annotations["categories"][0]["id"]])
    for image in annotated_images(annotations):
        keypoints, factors = decode(image)
        boxes = np.zeros((len(keypoints), 4), np.float32)
        poses = Poses(keypoints, factors, boxes, "targets", COCO17, image_id=image.image_id)
        metric.update(postprocess(poses))
    scores = metric.compute(annotations)
    numbers = {name: 100 * scores.numbers()[name] for name in ("AP", "AP50", "AP75", "AR")}
    return numbers | {"annotated": scores.people, "found": scores.detections}


def rows(annotations: dict) -> Iterator[dict]:
    for size, stride in BOTTOM_UP:
        codec = BodyParts(SIMPLEPOSE, (size, size), stride)
        about = {"codec": "body parts", "input": f"{size}x{size}", "stride": stride}
        yield about | scored(annotations, lambda image, codec=codec: bottom_up(codec, image))
    for size_wh in TOP_DOWN_SIZES:
        for name, options in TOP_DOWN:
            codec = Heatmap(COCO17, size_wh, **options)
            crop = BoxCrop(size_wh, udp=codec.alignment == "udp")
            about = {"codec": name, "input": f"{size_wh[1]}x{size_wh[0]}", "stride": 4}
            yield about | scored(
                annotations,
                lambda image, codec=codec, crop=crop: top_down(codec, crop, image),
            )


def main() -> None:
    arguments = parser(__doc__)
    arguments.add_argument(
        "--annotations",
        type=Path,
        default=ROOT / "tests" / "golden" / "coco_people.json",
        help="COCO keypoint file (%(default)s)",
    )
    args = arguments.parse_args()
    report(list(rows(json.loads(args.annotations.read_text()))), args.json)


if __name__ == "__main__":
    main()
