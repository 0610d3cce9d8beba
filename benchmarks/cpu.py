"""What `ppose.cpu.prepare` gains: a matrix product and a training step, with and without it.

    python benchmarks/cpu.py [--json FILE]

Each measurement is a process of its own, as MKL reads its setting once; both settings take turns.
"""

import json
import os
import subprocess
import sys

import numpy as np
from report import parser, report

SETTINGS = {"as installed": "0", "prepared": "5"}
ROUNDS = 3
WORK = """
import json, time, warnings
warnings.simplefilter("ignore")
import ppose, paddle
from ppose.models import HRNet, PoseNet
from ppose.skeleton import COCO17

def fastest(work, repeats):
    work()
    times = []
    for _ in range(repeats):
        started = time.perf_counter()
        work()
        times.append(time.perf_counter() - started)
    return 1e3 * min(times)

square = paddle.randn([1024, 1024])
network = PoseNet(HRNet(width=16, modules=(1, 1, 1), blocks=1), COCO17)
images = paddle.randn([16, 3, 128, 96])

def step():
    network(images).square().mean().backward()
    network.clear_gradients()

product = fastest(lambda: float((square @ square).sum()), 10)
print(json.dumps({"matrix product, ms": product, "training step, ms": fastest(step, 5)}))
"""


def main() -> None:
    args = parser(__doc__).parse_args()
    found: dict[str, list[dict]] = {name: [] for name in SETTINGS}
    for _ in range(ROUNDS):
        for name, value in SETTINGS.items():
            environment = os.environ | {"MKL_DEBUG_CPU_TYPE": value, "OMP_NUM_THREADS": "1"}
            done = subprocess.run(
                [sys.executable, "-c", WORK],
                env=environment,
                capture_output=True,
                text=True,
                check=True,
            )
            found[name].append(json.loads(done.stdout.splitlines()[-1]))
    rows = []
    for work in found["prepared"][0]:
        plain, prepared = (float(np.median([f[work] for f in found[n]])) for n in SETTINGS)
        rows.append(
            {"work": work, "as installed": plain, "prepared": prepared, "ratio": plain / prepared}
        )
    report(rows, args.json)


if __name__ == "__main__":
    main()
