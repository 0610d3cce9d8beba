"""Boxes of a detector beside those that were measured with it before, and what a picture takes.

    python benchmarks/detector.py --model picodet.xml --images coco/train2017 --boxes boxes.json

A box matches one of the file's with an IoU of 0.95 and a score within 0.01. The last columns are
the largest differences among those that match.
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
from ppose.deploy.detector import load_detector
from ppose.deploy.session import BACKENDS

MIN_IOU, MAX_SCORE = 0.95, 0.01


def measured(path: str) -> dict[int, np.ndarray]:
    """Id of a picture → (P, 5) boxes and scores of a file in COCO's results format."""
    rows = defaultdict(list)
    for found in json.loads(Path(path).read_text(encoding="utf-8")):
        rows[found["image_id"]].append([*found["bbox"], found["score"]])
    return {image: np.array(boxes) for image, boxes in rows.items()}


def overlaps(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """(A, B) intersections over unions of boxes (A, 5) and (B, 5)."""
    low = np.maximum(a[:, None, :2], b[:, :2])
    high = np.minimum(a[:, None, :2] + a[:, None, 2:4], b[:, :2] + b[:, 2:4])
    shared = (high - low).clip(0).prod(-1)
    areas = a[:, None, 2:4].prod(-1) + b[:, 2:4].prod(-1)
    return shared / (areas - shared)


def pairs(found: np.ndarray, wanted: np.ndarray) -> np.ndarray:
    """(M, 2) IoU and difference of scores of boxes that match, each used once."""
    iou = overlaps(wanted, found)
    apart = abs(wanted[:, 4, None] - found[:, 4])
    iou[apart > MAX_SCORE] = 0
    matched = []
    for row in range(len(wanted)):
        best = iou[row].argmax() if iou.shape[1] else -1
        if best >= 0 and iou[row, best] >= MIN_IOU:
            matched.append((iou[row, best], apart[row, best]))
            iou[:, best] = 0
    return np.array(matched).reshape(-1, 2)


def main() -> None:
    arguments = parser(__doc__)
    arguments.add_argument("--model", required=True, help="a detector's folder or file")
    arguments.add_argument("--images", required=True, help="folder of pictures named by their ids")
    arguments.add_argument("--boxes", required=True, help="boxes in COCO's results format")
    arguments.add_argument("--backend", default="auto", choices=("auto", *BACKENDS))
    arguments.add_argument("--threads", type=int, default=2)
    arguments.add_argument("--scores", type=float, nargs="+", default=[0.025, 0.1, 0.3, 0.5])
    args = arguments.parse_args()
    wanted = measured(args.boxes)
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
