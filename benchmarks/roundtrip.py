"""COCO AP that a codec reaches when its own targets are decoded: the bound that it sets.

python benchmarks/roundtrip.py [--annotations FILE] [--json FILE]

Bottom-up pictures are letterboxed to the input; top-down people are cropped by their annotated
boxes. No network takes part. The default file holds the people of 28 images of COCO train2017.
"""

import json
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from report import ROOT, parser, report

from ppose import geometry
from ppose.codecs import BodyParts, Heatmap
from ppose.codecs.parts import SIMPLEPOSE
from ppose.data.crops import BoxCrop
from ppose.metrics.coco import CocoMetric
from ppose.postprocess import Postprocess
from ppose.skeleton import COCO17
from ppose.structures import Poses

BOTTOM_UP = [(256, 4), (384, 4), (512, 2), (512, 4), (512, 8), (640, 4)]
TOP_DOWN = [
    ("msra, quarter", {"target": "msra", "refine": "quarter"}),
    ("dark, dark", {"target": "dark", "refine": "dark"}),
    ("udp, dark", {"target": "udp", "refine": "dark", "alignment": "udp", "shift_flip": False}),
]
TOP_DOWN_SIZES = [(96, 128), (192, 256), (288, 384)]


@dataclass
class Picture:
    """People of one image: (P, 17, 3) keypoints and (P, 4) boxes."""

    image_id: int
    size_wh: tuple[int, int]
    keypoints: np.ndarray
    boxes_xywh: np.ndarray


def pictures(annotations: dict) -> Iterator[Picture]:
    """The images with somebody who is labelled."""
    people = defaultdict(list)
    for person in annotations["annotations"]:
        if person["num_keypoints"] and not person["iscrowd"]:
            people[person["image_id"]].append(person)
    for image in annotations["images"]:
        if found := people[image["id"]]:
            keypoints = np.array([p["keypoints"] for p in found], np.float32).reshape(-1, 17, 3)
            boxes = np.array([p["bbox"] for p in found], np.float32)
            yield Picture(image["id"], (image["width"], image["height"]), keypoints, boxes)


def bottom_up(codec: BodyParts, picture: Picture) -> tuple[np.ndarray, np.ndarray]:
    """Keypoints and score factors of the people found in a letterboxed picture's own targets."""
    matrix = geometry.letterbox(picture.size_wh, codec.size_wh)
    moved = picture.keypoints.copy()
    moved[..., :2] = geometry.transform_points(matrix, moved[..., :2])
    found, factors = codec.decode(codec.encode(moved)["target"])
    found[..., :2] = geometry.transform_points(np.linalg.inv(matrix), found[..., :2])
    return found, factors


def top_down(codec: Heatmap, crop: BoxCrop, picture: Picture) -> tuple[np.ndarray, np.ndarray]:
    """The same for one crop a person."""
    matrices = np.stack([crop.matrix(box) for box in picture.boxes_xywh])
    moved = picture.keypoints.copy()
    moved[..., :2] = geometry.transform_points(matrices, moved[..., :2])
    found = codec.decode(np.stack([codec.encode(person)["target"] for person in moved]))
    found[..., :2] = geometry.transform_points(np.linalg.inv(matrices), found[..., :2])
    return found, np.ones(len(found), np.float32)


def scored(
    annotations: dict, decode: Callable[[Picture], tuple[np.ndarray, np.ndarray]]
) -> dict[str, float | int]:
    """AP and AR in percent, and the people found."""
    metric, postprocess = CocoMetric(), Postprocess(min_joint_score=0.0, oks_nms=None)
    metric.reset(annotations["categories"][0]["id"])
    for picture in pictures(annotations):
        keypoints, factors = decode(picture)
        boxes = np.zeros((len(keypoints), 4), np.float32)
        poses = Poses(keypoints, factors, boxes, "targets", COCO17, image_id=picture.image_id)
        metric.update(postprocess(poses))
    scores = metric.compute(annotations)
    numbers = {name: 100 * scores.numbers()[name] for name in ("AP", "AP50", "AP75", "AR")}
    return numbers | {"annotated": scores.people, "found": scores.detections}


def rows(annotations: dict) -> Iterator[dict]:
    for size, stride in BOTTOM_UP:
        codec = BodyParts(SIMPLEPOSE, (size, size), stride)
        about = {"codec": "body parts", "input": f"{size}x{size}", "stride": stride}
        yield about | scored(annotations, lambda picture, codec=codec: bottom_up(codec, picture))
    for size_wh in TOP_DOWN_SIZES:
        for name, options in TOP_DOWN:
            codec = Heatmap(COCO17, size_wh, **options)
            crop = BoxCrop(size_wh, udp=codec.alignment == "udp")
            about = {"codec": name, "input": f"{size_wh[1]}x{size_wh[0]}", "stride": 4}
            yield about | scored(
                annotations,
                lambda picture, codec=codec, crop=crop: top_down(codec, crop, picture),
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
