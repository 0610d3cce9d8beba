"""Speedup by each setting of `ppose.utils.cpu.prepare`, for a matrix product and training steps.

    python benchmarks/cpu.py [--rounds 3] [--json FILE]

Times are in milliseconds: the minimum of each process, and the median over processes. Each
measurement runs in a new process, as libraries read their settings once; settings alternate.
"""

import json
import os
import subprocess
import sys

import numpy as np
from report import parser, report

# Values that ppose keeps, as if set by the user: MKL detects the processor, Paddle uses one thread,
# and a malloc variable without effect.
MKL = {"MKL_DEBUG_CPU_TYPE": "0"}
THREADS = {"OMP_NUM_THREADS": "1"}
MALLOC = {"GLIBC_TUNABLES": "glibc.malloc.check=0"}
SETTINGS: dict[str, dict[str, str]] = {
    "as installed": MKL | THREADS | MALLOC,
    "+ MKL's path": THREADS | MALLOC,
    "+ memory kept": THREADS,
    "+ all cores": {},
}
WORK = """
import json, time, warnings
warnings.simplefilter("ignore")
import ppose, paddle
from ppose.models import HRNet, LiteHRNet, PoseNet
from ppose.structures.skeleton import COCO17

def fastest(work, repeats):
    work()
    times = []
    for _ in range(repeats):
        started = time.perf_counter()
        work()
        times.append(time.perf_counter() - started)
    return 1e3 * min(times)

def step(backbone):
    network = PoseNet(backbone, COCO17)
    images = paddle.randn([16, 3, 128, 96])

    def work():
        network(images).square().mean().backward()
        network.clear_gradients()

    return fastest(work, 5)

square = paddle.randn([1024, 1024])
print(json.dumps({
    "matrix product": fastest(lambda: float((square @ square).sum()), 10),
    "HRNet": step(HRNet(width=16, modules=(1, 1, 1), blocks=1)),
    "Lite-HRNet-18": step(LiteHRNet("lite_18")),
}))
"""


def main() -> None:
    arguments = parser(__doc__)
    arguments.add_argument("--rounds", type=int, default=3, help="processes of each setting")
    args = arguments.parse_args()
    ours = {name: value for name, value in os.environ.items() if name not in MKL | THREADS}
    found: dict[str, list[dict]] = {name: [] for name in SETTINGS}
    for _ in range(args.rounds):
        for name, environment in SETTINGS.items():
            done = subprocess.run(
                [sys.executable, "-c", WORK],
                env=ours | environment,
                capture_output=True,
                text=True,
                check=True,
            )
            found[name].append(json.loads(done.stdout.splitlines()[-1]))
    rows = []
    for work in found["as installed"][0]:
        times = {name: float(np.median([f[work] for f in found[name]])) for name in SETTINGS}
        first, *_, last = times.values()
        rows.append({"work": work, **times, "times as fast": first / last})
    report(rows, args.json)


if __name__ == "__main__":
    main()
