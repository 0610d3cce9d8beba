"""How many synthetic images one core draws and labels in a second.

Counts all that `write_coco` does: drawing, JPEG encoding, polygons, writing files and JSON.
"""

from __future__ import annotations

import argparse
import json
import platform
import tempfile
import time
from pathlib import Path

import cv2
import numpy as np

from ppose.data.synthetic import write_coco
from ppose.data.synthetic.scene import SETTINGS, Difficulty

_SIZES = ((320, 240), (640, 480))


def measure(size_wh: tuple[int, int], difficulty: Difficulty, images: int) -> dict[str, object]:
    """Wall and processor time of writing a split with one process and one thread."""
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
        "images": images,
        "people_per_image": round(people / images, 2),
        "images_per_second": round(images / wall, 1),
        "images_per_cpu_second": round(images / cpu, 1),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, default=300, help="of each row (%(default)s)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures there too")
    args = parser.parse_args()
    cv2.setNumThreads(1)
    rows = [measure(size, level, args.images) for size in _SIZES for level in SETTINGS]
    print(f"{'size':>9} {'difficulty':>11} {'people/image':>13} {'images/s':>9} {'per CPU s':>10}")
    for row in rows:
        print(
            f"{row['size']:>9} {row['difficulty']:>11} {row['people_per_image']:>13} "
            f"{row['images_per_second']:>9} {row['images_per_cpu_second']:>10}"
        )
    if args.json:
        about = {
            "machine": platform.processor() or platform.machine(),
            "python": platform.python_version(),
            "numpy": np.__version__,
            "opencv": cv2.__version__,
        }
        args.json.write_text(json.dumps({"about": about, "rows": rows}, indent=2) + "\n")


if __name__ == "__main__":
    main()
