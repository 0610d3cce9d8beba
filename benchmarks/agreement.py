"""People that C++ and each backend find in a folder of images, compared with one backend in Python.

    python tools/export.py -c quickstart
    python benchmarks/agreement.py --model_dir output/inference/quickstart --images photos \\
        --bbox_file boxes.json --program build/ppose_infer

People are the same if no joint scored above 0.1 is further than 1 px away. `other counts` are
images with more or fewer people, `px` the distances of joints of the same people.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
from report import ROOT, parser, report

sys.path.insert(0, str(ROOT))

from ppose.data.boxes import BoxFile
from ppose.data.images import list_images
from ppose.deploy.backends.settings import BACKENDS
from ppose.deploy.session_runner import load_estimator

SURE, NEAR = 0.1, 1.0
Found = list[np.ndarray]  # keypoints (P, K, 3) of each image


def in_python(args: Any, backend: str, files: list[Path]) -> Found:
    estimator = load_estimator(args.model_dir, backend=backend, threads=args.threads)
    boxes = BoxFile(args.bbox_file, args.min_box_score) if args.bbox_file else None
    return [estimator(file, boxes and boxes.of(file)).keypoints for file in files]


def in_cpp(args: Any, files: list[Path]) -> Found:
    command = [args.program, "--model_dir", args.model_dir, "--threads", str(args.threads)]
    if args.bbox_file:
        command += ["--bbox_file", args.bbox_file, "--min_box_score", str(args.min_box_score)]
    made = subprocess.run(
        [*command, "--image_file", *map(str, files)], stdout=subprocess.PIPE, check=True
    )
    images = json.loads(made.stdout)["images"]
    assert len(images) == len(files), "an image could not be read"
    return [
        np.array([person["keypoints"] for person in image["people"]]).reshape(
            len(image["people"]), -1, 3
        )
        for image in images
    ]


def same_people(found: np.ndarray, wanted: np.ndarray) -> list[np.ndarray]:
    """Distances in pixels of the joints of the same people."""
    rest, same = list(found), []
    for person in wanted:
        distances = []
        for other in rest:
            sure = np.minimum(person[:, 2], other[:, 2]) > SURE
            distances.append(np.hypot(*(person - other)[sure, :2].T))
        largest = [one.max(initial=0) if len(one) else np.inf for one in distances]
        if largest and min(largest) <= NEAR:
            best = int(np.argmin(largest))
            same.append(distances[best])
            del rest[best]
    return same


def row(name: str, found: Found, wanted: Found) -> dict[str, Any]:
    same = [same_people(*pair) for pair in zip(found, wanted, strict=True)]
    joints = np.concatenate([np.zeros(1), *(one for people in same for one in people)])
    return {
        "": name,
        "images": len(wanted),
        "people": sum(map(len, wanted)),
        "found": sum(map(len, found)),
        "same": sum(map(len, same)),
        "other counts": sum(len(a) != len(b) for a, b in zip(found, wanted, strict=True)),
        "largest px": f"{joints.max():.4f}",
        "mean px": f"{joints.mean():.5f}",
    }


def main() -> None:
    arguments = parser(__doc__)
    arguments.add_argument("--model_dir", required=True, help="a bundle")
    arguments.add_argument("--images", required=True, help="image, folder or pattern")
    arguments.add_argument("--bbox_file", help="boxes of people; images without are left out")
    arguments.add_argument("--min_box_score", type=float, default=0.3)
    arguments.add_argument("--program", help="ppose_infer; default: backends only")
    arguments.add_argument(
        "--backends", nargs="+", default=["openvino", "onnxruntime"], choices=BACKENDS
    )
    arguments.add_argument("--threads", type=int, default=1)
    args = arguments.parse_args()
    files = list_images(args.images)
    if args.bbox_file:
        boxes = BoxFile(args.bbox_file, args.min_box_score)
        files = [file for file in files if len(boxes.of(file))]
    reference, *others = args.backends
    wanted = in_python(args, reference, files)
    rows = [row(f"{name} - {reference}", in_python(args, name, files), wanted) for name in others]
    if args.program:
        rows.append(row(f"C++ - {reference}", in_cpp(args, files), wanted))
    report(rows, args.json)


if __name__ == "__main__":
    main()
