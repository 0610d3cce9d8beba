"""Synthetic data: images per second on one core.

    python benchmarks/synthetic.py [--images 300] [--json FILE]

Measures `write_coco` as a whole: drawing, JPEG encoding, polygons, writing files and JSON.
"""

import json
import tempfile
import time
from itertools import product
from pathlib import Path

import cv2
from report import parser, report

from ppose.synthetic import write_coco
from ppose.synthetic.scene import SETTINGS, Difficulty

SIZES = ((320, 240), (640, 480))


def measure(size_wh: tuple[int, int], difficulty: Difficulty, images: int) -> dict[str, object]:
    """Wall-clock and CPU time of writing a split with one process and one thread."""
    with tempfile.TemporaryDirectory() as folder:
        write_coco(folder, "warmup", 8, 0, size_wh, difficulty)
        wall, cpu = time.perf_counter(), time.process_time()
        write_coco(folder, "measured", images, 0, size_wh, difficulty)
        wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
        listing = Path(folder, "annotations", "person_keypoints_measured.json")
        people = len(json.loads(listing.read_text())["annotations"])
    return {
        "size": f"{size_wh[0]}x{size_wh[1]}",
        "difficulty": difficulty,
        "people an image": people / images,
        "images/s": images / wall,
        "images/CPU s": images / cpu,
    }


def main() -> None:
    arguments = parser(__doc__)
    arguments.add_argument(
        "--images", type=int, default=300, help="images per row (default: %(default)s)"
    )
    args = arguments.parse_args()
    cv2.setNumThreads(0)
    report([measure(*row, args.images) for row in product(SIZES, SETTINGS)], args.json)


if __name__ == "__main__":
    main()
