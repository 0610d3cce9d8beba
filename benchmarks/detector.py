"""Person detector: comparison with reference boxes, and time per image.

    python benchmarks/detector.py --model picodet.xml --images coco/train2017 --boxes boxes.json

A box matches a reference box with an IoU of at least 0.95 and a score within 0.01. `lowest IoU` and
`score apart` are the largest differences among matches.
"""

from __future__ import annotations

import json
import sys
import time
from collections import defaultdict
from pathlib import Path

import numpy as np
from report import ROOT, parser, report

sys.path.insert(0, str(ROOT))

from ppose.data.images import read_image
from ppose.deploy.backends.settings import BACKENDS
from ppose.deploy.detection.detector import load_detector

MIN_IOU, MAX_SCORE = 0.95, 0.01


def read_boxes(path: str) -> dict[int, np.ndarray]:
    """Image id → (P, 5) boxes and scores of a file in COCO's results format."""
    rows = defaultdict(list)
    for found in json.loads(Path(path).read_text(encoding="utf-8")):
        rows[found["image_id"]].append([*found["bbox"], found["score"]])
    return {image: np.array(boxes) for image, boxes in rows.items()}


def iou_matrix(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """(A, B) IoU of boxes (A, 5) and (B, 5)."""
    low = np.maximum(a[:, None, :2], b[:, :2])
    high = np.minimum(a[:, None, :2] + a[:, None, 2:4], b[:, :2] + b[:, 2:4])
    shared = (high - low).clip(0).prod(-1)
    areas = a[:, None, 2:4].prod(-1) + b[:, 2:4].prod(-1)
    return shared / (areas - shared)


def pairs(found: np.ndarray, wanted: np.ndarray) -> np.ndarray:
    """(M, 2) IoU and score difference of matching boxes, each used once."""
    iou = iou_matrix(wanted, found)
    differences = abs(wanted[:, 4, None] - found[:, 4])
    iou[differences > MAX_SCORE] = 0
    matched = []
    for row in range(len(wanted)):
        best = iou[row].argmax() if iou.shape[1] else -1
        if best >= 0 and iou[row, best] >= MIN_IOU:
            matched.append((iou[row, best], differences[row, best]))
            iou[:, best] = 0
    return np.array(matched).reshape(-1, 2)


def main() -> None:
    arguments = parser(__doc__)
    arguments.add_argument("--model", required=True, help="folder or file of a detector")
    arguments.add_argument("--images", required=True, help="folder of images named by their ids")
    arguments.add_argument("--boxes", required=True, help="reference boxes, COCO's results format")
    arguments.add_argument("--backend", default="auto", choices=("auto", *BACKENDS))
    arguments.add_argument("--threads", type=int, default=2)
    arguments.add_argument("--scores", type=float, nargs="+", default=[0.025, 0.1, 0.3, 0.5])
    args = arguments.parse_args()
    wanted = read_boxes(args.boxes)
    files = sorted(p for p in Path(args.images).iterdir() if p.stem.isdecimal())
    images = [read_image(path) for path in files]
    rows = []
    for score in args.scores:
        find = load_detector(
            args.model, backend=args.backend, threads=args.threads, min_score=score
        )
        start = time.perf_counter()
        found = find(images)
        seconds = time.perf_counter() - start
        matched, theirs = [], 0
        for path, boxes in zip(files, found, strict=True):
            known = wanted.get(int(path.stem), np.zeros((0, 5)))
            known = known[known[:, 4] >= score]
            theirs += len(known)
            matched.append(pairs(boxes.astype(float), known))
        both = np.concatenate(matched)
        rows.append(
            {
                "min score": f"{score:g}",
                "pictures": len(files),
                "boxes of the file": theirs,
                "boxes found": sum(map(len, found)),
                "that match": len(both),
                "lowest IoU": f"{both[:, 0].min(initial=1):.4f}",
                "score apart": f"{both[:, 1].max(initial=0):.5f}",
                "ms a picture": 1000 * seconds / len(files),
            }
        )
    report(rows, args.json)


if __name__ == "__main__":
    main()
