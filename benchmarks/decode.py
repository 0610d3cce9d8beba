"""Time of decoding a batch of heatmaps, for each refinement.

python benchmarks/decode.py [--json FILE]
"""

import cv2
import numpy as np
from report import parser, report, seconds

from ppose.codecs.heatmap import Heatmap
from ppose.structures.skeleton import COCO17

BATCH = 64


def main() -> None:
    args = parser(__doc__).parse_args()
    cv2.setNumThreads(0)
    rng = np.random.default_rng(0)
    target = Heatmap(COCO17, (192, 256), target="dark")
    people = np.concatenate(
        [rng.random((BATCH, 17, 2)) * (192, 256), np.full((BATCH, 17, 1), 2)], 2
    )
    maps = np.stack([target.encode_keypoints(person)["target"] for person in people])
    maps += 0.02 * rng.random(maps.shape, np.float32)
    rows = []
    for refine in ("argmax", "quarter", "dark"):
        codec = Heatmap(COCO17, (192, 256), refine=refine)
        times = 1e3 * seconds(lambda codec=codec: codec.decode_keypoints(maps))
        rows.append(
            {
                "refine": refine,
                "batch": f"{BATCH}x17x64x48",
                "median ms": float(np.median(times)),
                "p95 ms": float(np.percentile(times, 95)),
            }
        )
    report(rows, args.json)


if __name__ == "__main__":
    main()
