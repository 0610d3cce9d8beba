"""Time and memory of writing and reading a checkpoint.

    python benchmarks/checkpoints.py [--width 32] [--repeats 5] [--folder DIR] [--json FILE]

The checkpoint holds an HRNet and the two moments of Adam. `save` ends when the data is on the disk;
`plain write` is the time that the disk takes for as many bytes; `load` reads a file from the page
cache. `peak MB` is the peak memory in addition to the inputs, measured in a separate process. MB
are 10^6 bytes. Requires Linux.
"""

from __future__ import annotations

import argparse
import gc
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.numpy
from report import parser, report, seconds

from ppose.models import HRNet, PoseNet
from ppose.structures.skeleton import COCO17
from ppose.training.checkpoints import Checkpoints, _checksum

FACTS = {"best": 0.5, "config": {"epochs": 210}}


WORKS = ("save", "load", "checksum alone", "plain write", "copy in memory")


def main() -> None:
    args = arguments()
    if args.peak:
        folder, name = args.peak
        print(peak(work_of(name, Path(folder), args.width)))
        return
    rows = []
    with tempfile.TemporaryDirectory(dir=args.folder) as folder:
        arrays = state_arrays(args.width)
        size = sum(a.nbytes for a in arrays.values()) / 1e6
        for name in WORKS:
            times = seconds(work_of(name, Path(folder), arrays), args.repeats, warmup=1)
            rows.append(
                {
                    "work": name,
                    "arrays": len(arrays),
                    "state MB": size,
                    "median s": float(np.median(times)),
                    "fastest s": float(times.min()),
                    "MB/s": size / float(np.median(times)),
                    "peak MB": peak_in_process(name, folder, args.width),
                }
            )
    report(rows, args.json)


def work_of(name: str, folder: Path, state: dict[str, np.ndarray] | int) -> Callable[[], Any]:
    """One of `WORKS` on a state, or on the state of an HRNet of the given width."""
    store = Checkpoints(folder, keep=1)
    if name == "load":
        return store.load
    arrays = state_arrays(state) if isinstance(state, int) else state
    return {
        "save": lambda: store.save(1, arrays, FACTS),
        "checksum alone": lambda: _checksum("", arrays),
        "plain write": lambda: plain_write(folder / "plain", arrays),
        "copy in memory": lambda: safetensors.numpy.save(arrays),
    }[name]


def arguments() -> argparse.Namespace:
    made = parser(__doc__)
    made.add_argument("--width", type=int, default=32, help="width of HRNet (default: 32)")
    made.add_argument("--repeats", type=int, default=5)
    made.add_argument("--folder", help="folder on the disk to measure; default: a temporary one")
    made.add_argument("--peak", nargs=2, help="for internal use")
    return made.parse_args()


def state_arrays(width: int) -> dict[str, np.ndarray]:
    network = PoseNet(HRNet(width=width), COCO17)
    arrays = {f"model.{name}": t.numpy() for name, t in network.state_dict().items()}
    rng = np.random.default_rng(0)
    for name, parameter in network.named_parameters():
        for moment in (1, 2):
            values = rng.standard_normal(parameter.shape, np.float32)
            arrays[f"optimizer.{name}/moment{moment}_0"] = values
    return arrays


def plain_write(path: Path, arrays: dict[str, np.ndarray]) -> None:
    with path.open("wb") as file:
        for array in arrays.values():
            file.write(array.reshape(-1).data)
        file.flush()
        os.fsync(file.fileno())


def peak_in_process(name: str, folder: str, width: int) -> float:
    """`peak` in a new process."""
    command = [sys.executable, __file__, "--peak", folder, name, "--width", str(width)]
    return float(subprocess.run(command, stdout=subprocess.PIPE, check=True).stdout)


def peak(work: Callable[[], Any]) -> float:
    """Peak resident memory of `work` in MB, minus that before."""
    gc.collect()
    before = resident("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # resets the peak
    work()
    return resident("VmHWM") - before


def resident(kind: str) -> float:
    status = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in status if line.startswith(kind)) * 1024 / 1e6


if __name__ == "__main__":
    main()
