"""Training on this CPU: samples a second, and how they compare to Paddle's own defaults.

    python benchmarks/train.py [--networks HRNet-w32] [--settings ppose] [--rounds 3] [--json FILE]

The trainer's steps on pictures of synthetic people, which one process loads. Settings:

- Paddle's defaults: what `pip install paddlepaddle` computes with: one thread, the path of MKL for
  processors that are not Intel's, glibc's malloc as it is, Paddle's operators only.
- Paddle's defaults, all cores: the same with a thread for each core.
- ppose: what `import ppose` sets (ppose/cpu.py) and its own kernels (ppose/models/kernels.py).
- ppose, oneDNN: the same with Paddle's flags for oneDNN.
- ppose, deterministic: `deterministic: true`, sums in one order whatever the memory's alignment.
- ppose, to_static: the network as one graph; its first step, which is not counted, takes minutes.
- PyTorch: the same network in PyTorch, where that is installed: forward, loss, backward and a step
  of Adam on one batch, no loading.

Each measurement is a process of its own, and all take turns. Steps and peaks are medians of them.
"""

from __future__ import annotations

import argparse
import importlib.util
import multiprocessing
import os
import resource
import tempfile
import time
import warnings
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import closing
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from report import ROOT, parser, report

if TYPE_CHECKING:
    import torch

CONFIGS = {
    "HRNet-w32": "hrnet_w32_256x192",
    "Lite-HRNet-30": "lite_hrnet_30_256x192_coco",
    "small IMHN": "imhn_quickstart",
}
PADDLE, PYTORCH = "Paddle's defaults", "PyTorch"
_ONEDNN = {"FLAGS_use_mkldnn": "1", "FLAGS_use_onednn": "1"}
# As if set by the user, so that ppose leaves it: MKL asks the processor, and a variable of malloc
# that changes nothing.
_UNPREPARED = {"MKL_DEBUG_CPU_TYPE": "0", "GLIBC_TUNABLES": "glibc.malloc.check=0"}
ENVIRONMENT: dict[str, dict[str, str]] = {
    PADDLE: {"OMP_NUM_THREADS": "1"} | _UNPREPARED,
    f"{PADDLE}, all cores": {"OMP_NUM_THREADS": str(os.cpu_count())} | _UNPREPARED,
    "ppose": {},
    "ppose, deterministic": {},
    "ppose, oneDNN": _ONEDNN,
    "ppose, to_static": {},
    "ppose, to_static, oneDNN": _ONEDNN,
    PYTORCH: {},
}
PICTURES = 64
WARMUP = 2


def main() -> None:
    args = arguments()
    settings = [name for name in ENVIRONMENT if name in args.settings]
    if PYTORCH in settings and importlib.util.find_spec("torch") is None:
        print("PyTorch is not installed: no rows of it")
        settings.remove(PYTORCH)
    found: dict[tuple[str, str], list[dict[str, float]]] = {}
    with tempfile.TemporaryDirectory() as folder:
        in_own_process(write_pictures, folder)
        for _ in range(args.rounds):
            for network in args.networks:
                for setting in settings:
                    work = measure_torch if setting == PYTORCH else measure
                    try:
                        one = in_own_process(work, network, setting, folder, args)
                    except (RuntimeError, NotImplementedError, BrokenProcessPool) as error:
                        print(f"{network}, {setting}: not run: {str(error).strip()[-200:]}")
                        continue
                    found.setdefault((network, setting), []).append(one)
    medians = {
        key: {name: float(np.median([each[name] for each in rounds])) for name in rounds[0]}
        for key, rounds in found.items()
    }
    report([row(network, setting, medians) for network, setting in medians], args.json)


def arguments() -> argparse.Namespace:
    made = parser(__doc__)
    made.add_argument("--networks", nargs="+", choices=CONFIGS, default=[*CONFIGS])
    made.add_argument("--settings", nargs="+", choices=ENVIRONMENT, default=[*ENVIRONMENT])
    made.add_argument("--rounds", type=int, default=3, help="processes of each setting")
    made.add_argument("--steps", type=int, default=5, help="counted steps of each process")
    made.add_argument("--batch", type=int, default=8)
    return made.parse_args()


def row(
    network: str, setting: str, medians: dict[tuple[str, str], dict[str, float]]
) -> dict[str, Any]:
    one = medians[network, setting]

    def times_as_fast_as(other: str) -> float | str:
        there = medians.get((network, other))
        return there["step"] / one["step"] if there else "-"

    return {
        "network": network,
        "setting": setting,
        "step s": one["step"],
        "samples/s": one["samples"] / one["step"],
        "data wait %": 100 * one["wait"],
        f"x {PADDLE}": times_as_fast_as(PADDLE),
        f"x {PYTORCH}": times_as_fast_as(PYTORCH),
        "peak MiB": one["peak"],
    }


def in_own_process(work: Any, *arguments: object) -> Any:
    fresh = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, fresh) as process:
        return process.submit(work, *arguments).result()


def write_pictures(folder: str) -> None:
    from ppose.data.synthetic import write_coco

    write_coco(Path(folder), "train", PICTURES, seed=0, size_wh=(640, 480))


def measure(network: str, setting: str, folder: str, args: argparse.Namespace) -> dict[str, float]:
    """Seconds of the trainer's steps and what part of them went by in waiting for data."""
    os.environ.update(ENVIRONMENT[setting])
    warnings.simplefilter("ignore")
    import ppose  # noqa: F401  sets up the CPU before Paddle is imported
    from ppose.engine.trainer import Trainer
    from ppose.models import kernels

    if setting.startswith(PADDLE):
        kernels.numba = None
    trainer = Trainer(experiment_of(network, folder, args, setting), hooks=[])
    with closing(trainer.batches()) as batches:
        reports = [
            trainer.run_step(batch, waited)
            for batch, waited in islice(batches, WARMUP + args.steps)
        ][WARMUP:]
    seconds = [each.seconds for each in reports]
    return {
        "step": float(np.median(seconds)),
        "samples": reports[0].samples,
        "wait": sum(each.data_seconds for each in reports) / sum(seconds),
        "peak": peak(),
    }


def experiment_of(network: str, folder: str, args: argparse.Namespace, setting: str) -> Any:
    from ppose.experiment import Experiment

    overrides = {
        "train_dataset.image_dir": f"{folder}/train",
        "train_dataset.anno_path": f"{folder}/annotations/person_keypoints_train.json",
        "batch_size": args.batch,
        "workers": 1,
        "epochs": WARMUP + args.steps,  # of at least one step each
        "pretrain_weights": "null",
        "to_static": str("to_static" in setting).lower(),
        "deterministic": str("deterministic" in setting).lower(),
        "output_dir": f"{folder}/run",
    }
    config = ROOT / "configs" / f"{CONFIGS[network]}.yml"
    return Experiment.from_file(config, [f"{key}={value}" for key, value in overrides.items()])


def measure_torch(
    network: str, setting: str, folder: str, args: argparse.Namespace
) -> dict[str, float]:
    """As `measure`, on one batch of noise."""
    warnings.simplefilter("ignore")
    import torch

    from ppose.cpu import usable_cores

    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", usable_cores())))
    torch.manual_seed(0)
    experiment = experiment_of(network, folder, args, setting)
    width, height = experiment.input_size
    model = torch_network(network, experiment.codec.channels)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-4)
    # IMHN takes images as they are in memory: (N, H, W, 3).
    shape = (height, width, 3) if network == "small IMHN" else (3, height, width)
    images = torch.rand(args.batch, *shape)
    targets = [torch.rand_like(maps) for maps in maps_of(model, images)]
    seconds = []
    for _ in range(WARMUP + args.steps):
        started = time.perf_counter()
        pairs = zip(maps_of(model, images), targets, strict=True)
        sum((maps - target).square().mean() for maps, target in pairs).backward()
        optimizer.step()
        optimizer.zero_grad()
        seconds.append(time.perf_counter() - started)
    return {
        "step": float(np.median(seconds[WARMUP:])),
        "samples": args.batch,
        "wait": 0.0,
        "peak": peak(),
    }


def torch_network(network: str, channels: int) -> torch.nn.Module:
    from torch import nn

    from ppose.convert import torch_hrnet, torch_imhn, torch_lite_hrnet

    if network == "HRNet-w32":
        return torch_hrnet.HRNet(32, channels)
    if network == "Lite-HRNet-30":
        backbone = torch_lite_hrnet.LiteHRNet((3, 8, 3), 40, weighting=True)
        return nn.Sequential(backbone, nn.Conv2d(40, channels, 1))
    return torch_imhn.IMHN(stacks=1, width=32, increase=16, channels=channels)


def maps_of(model: torch.nn.Module, images: torch.Tensor) -> list[torch.Tensor]:
    found = model(images)
    return found if isinstance(found, list) else [found]


def peak() -> float:
    """MiB of resident memory that this process has had at most."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


if __name__ == "__main__":
    main()
