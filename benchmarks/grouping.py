"""Time of bottom-up grouping: by stage, by number of people, with and without Numba.

The input are maps at stride 4 of the four scenes in tests/golden/imhn_targets_grouping.npz (7 to
11 people, 512×512 images, targets plus noise); larger canvases are tiled from them. Run it on one
core:

    OMP_NUM_THREADS=1 python benchmarks/grouping.py [--json FILE]
"""

from typing import Any

import cv2
import numpy as np
from report import ROOT, parser, report, seconds

from ppose.codecs import grouping
from ppose.codecs.grouping import Grouping
from ppose.codecs.part_layout import SIMPLEPOSE

# Name → rows and columns of tiles
CANVASES = {"1 tile": (1, 1), "2 tiles": (1, 2), "6 tiles": (2, 3), "24 tiles": (4, 6)}


def scenes() -> list[tuple[np.ndarray, int]]:
    """Maps (50, 128, 128) float32 and number of people of each scene."""
    golden = np.load(ROOT / "tests" / "golden" / "imhn_targets_grouping.npz")
    return [(golden[f"maps{n}"].astype(np.float32), len(golden[f"joints{n}"])) for n in range(4)]


def canvases(rows: int, columns: int) -> list[tuple[np.ndarray, int]]:
    """Tiled maps with numbers of people; each canvas has another scene in its first tile."""
    tiles, made = scenes(), []
    for start in range(len(tiles)):
        part = [tiles[(start + i) % len(tiles)] for i in range(rows * columns)]
        grid = [part[i : i + columns] for i in range(0, len(part), columns)]
        maps = np.concatenate([np.concatenate([m for m, _ in row], 2) for row in grid], 1)
        made.append((maps, sum(people for _, people in part)))
    return made


def measure(maps: np.ndarray, repeats: int) -> dict[str, np.ndarray]:
    """Stage → (repeats,) milliseconds; "all" for the total."""
    joint_maps, limb_maps = maps[SIMPLEPOSE.joint_channels], maps[SIMPLEPOSE.limb_channels]
    limb_index = SIMPLEPOSE.limb_index
    codec = Grouping()
    peaks = codec.peaks(joint_maps)
    limbs = codec.limbs(peaks, limb_maps, limb_index)
    stages = {
        "all": lambda: codec(joint_maps, limb_maps, limb_index),
        "peaks": lambda: codec.peaks(joint_maps),
        "limbs": lambda: codec.limbs(peaks, limb_maps, limb_index),
        "people": lambda: codec.people(peaks, limbs, limb_index, len(joint_maps)),
    }
    return {name: 1e3 * seconds(work, repeats) for name, work in stages.items()}


def row(name: str, compiled: bool) -> dict[str, Any]:
    """One row of the table."""
    made = canvases(*CANVASES[name])
    repeats = 30 if made[0][0].size < 1 << 22 else 8
    measured = [measure(maps, repeats) for maps, _ in made]
    times = {stage: np.concatenate([each[stage] for each in measured]) for stage in measured[0]}
    joint_maps = [maps[SIMPLEPOSE.joint_channels] for maps, _ in made]
    return {
        "canvas": name,
        "cells": "x".join(map(str, made[0][0].shape[1:])),
        "people": float(np.mean([people for _, people in made])),
        "peaks": float(np.mean([len(Grouping().peaks(maps)) for maps in joint_maps])),
        "numba": "yes" if compiled else "no",
        "median ms": float(np.median(times["all"])),
        "p95 ms": float(np.percentile(times["all"], 95)),
        **{f"{stage} ms": float(np.median(times[stage])) for stage in times if stage != "all"},
    }


def main() -> None:
    args = parser(__doc__).parse_args()
    cv2.setNumThreads(1)
    compiled = grouping.merge
    rows = []
    for merge in dict.fromkeys((compiled, compiled.py_func)):
        grouping.merge = merge
        rows += [row(name, merge is not compiled.py_func) for name in CANVASES]
    report(rows, args.json)


if __name__ == "__main__":
    main()
