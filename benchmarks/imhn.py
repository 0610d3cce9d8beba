"""IMHN forward pass: only the decoded maps, or all maps of all stacks and scales.

The published network computes all maps, and the merges of the finest scale twice (537 GFLOP at
512×512 with 4 stacks). GFLOP are 10⁹ multiplications and additions of convolutions and linear
layers.

    OMP_NUM_THREADS=1 python benchmarks/imhn.py [--size 512] [--stacks 4] [--json FILE]

Timings of both alternate. Peak resident memory is measured in a separate process for each.
"""

from __future__ import annotations

import argparse
import math
import multiprocessing
import resource
import warnings
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from typing import TYPE_CHECKING, Any

import numpy as np
from report import parser, report, seconds

if TYPE_CHECKING:
    import paddle
    from paddle import nn

    from ppose.models import IMHN

MAPS = ("decoded", "all")


def main() -> None:
    args = arguments()
    times = in_own_process(alternating_times, args)
    rows = []
    for maps in MAPS:
        found = in_own_process(facts, maps, args)
        median = float(np.median(times[maps]))
        rows.append(
            {
                "maps": maps,
                "image": f"{args.size}x{args.size}",
                "parameters M": found["parameters"] / 1e6,
                "GFLOP": found["operations"] / 1e9,
                "median s": median,
                "fastest s": float(times[maps].min()),
                "peak MiB": found["peak"],
                "network MiB": found["before"],
            }
        )
    report(rows, args.json)


def arguments() -> argparse.Namespace:
    made = parser(__doc__)
    made.add_argument("--size", type=int, default=512, help="side of the image, a multiple of 64")
    made.add_argument("--stacks", type=int, default=4)
    made.add_argument("--width", type=int, default=256)
    made.add_argument("--increase", type=int, default=128)
    made.add_argument("--repeats", type=int, default=7)
    return made.parse_args()


def in_own_process(work: Callable[..., Any], *arguments: object) -> Any:
    """Runs `work` in a new process. It inherits the peak of this one, which imports no Paddle."""
    fresh = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, fresh) as process:
        return process.submit(work, *arguments).result()


def alternating_times(args: argparse.Namespace) -> dict[str, np.ndarray]:
    """(repeats,) seconds of a forward pass for each of `MAPS`; alternating evens out other load."""
    network, images = build(args)
    times: dict[str, list[float]] = {maps: [] for maps in MAPS}
    for turn in range(args.repeats):
        for maps in MAPS:
            forward = forward_of(network, maps, images)
            times[maps].append(float(seconds(forward, repeats=1, warmup=turn == 0)[0]))
    return {maps: np.array(each) for maps, each in times.items()}


def facts(maps: str, args: argparse.Namespace) -> dict[str, float]:
    """Parameters, operations, and MiB before the first forward pass and at its peak."""
    network, images = build(args)
    operations = count_operations(network)
    before = peak()
    forward_of(network, maps, images)()
    return {
        "parameters": sum(p.size for p in network.parameters() if not p.stop_gradient),
        "operations": sum(operations),
        "before": before,
        "peak": peak(),
    }


def build(args: argparse.Namespace) -> tuple[IMHN, paddle.Tensor]:
    """A network with random weights, and an image."""
    warnings.simplefilter("ignore")
    import ppose  # noqa: F401, I001  sets up the CPU before Paddle is imported
    import paddle
    from ppose.codecs.part_layout import SIMPLEPOSE
    from ppose.models import IMHN

    paddle.seed(0)
    network = IMHN(SIMPLEPOSE, args.stacks, args.width, args.increase)
    network.eval()
    return network, paddle.rand([1, 3, args.size, args.size])


def forward_of(network: IMHN, maps: str, images: paddle.Tensor) -> Callable[[], Any]:
    import paddle

    def forward() -> Any:
        # Of this layer only: all maps, with batch norms in eval mode.
        network.training = maps == "all"
        with paddle.no_grad():
            return network(images)

    return forward


def count_operations(network: nn.Layer) -> list[int]:
    """A list that collects the operations of each convolution and linear layer that runs."""
    from paddle import nn

    found: list[int] = []

    def add(layer: nn.Layer, _: object, output: paddle.Tensor) -> None:
        # Conv2D: (outputs, inputs / groups, height, width); Linear: (inputs, outputs)
        shape = layer.weight.shape
        each = shape[0] if isinstance(layer, nn.Linear) else math.prod(shape[1:])
        found.append(2 * each * output.size)

    for layer in network.sublayers():
        if isinstance(layer, nn.Conv2D | nn.Linear):
            layer.register_forward_post_hook(add)
    return found


def peak() -> float:
    """Peak resident memory of this process in MiB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


if __name__ == "__main__":
    main()
