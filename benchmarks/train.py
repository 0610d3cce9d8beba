"""Training speed on this CPU, compared with Paddle's defaults and with PyTorch.

    python benchmarks/train.py [--networks HRNet-w32] [--settings ppose] [--rounds 3] [--json FILE]

Runs steps of the trainer on images of synthetic people, loaded by one process. Settings:

- Paddle's defaults: `pip install paddlepaddle` without changes: one thread, MKL's code path for
  processors other than Intel's, default settings of glibc's malloc, Paddle's operators only.
- Paddle's defaults, all cores: the same with a thread per core.
- ppose: the settings of `import ppose` (ppose/utils/cpu.py) and its kernels
  (ppose/models/kernels.py).
- ppose, oneDNN: the same with Paddle's flags for oneDNN.
- ppose, deterministic: `deterministic: true`, sums in a fixed order.
- ppose, to_static: the network as a static graph; its first step, which is not measured, takes
  minutes.
- PyTorch: the same network in PyTorch, if installed: forward, loss, backward and a step of Adam on
  one batch, without data loading.

Each measurement runs in a new process, and settings alternate. Steps and peaks are medians.
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
# Values that ppose keeps, as if set by the user: MKL detects the processor, and a malloc variable
# without effect.
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
IMAGES = 64
WARMUP = 2


def main() -> None:
    args = arguments()
    settings = [name for name in ENVIRONMENT if name in args.settings]
    if PYTORCH in settings and importlib.util.find_spec("torch") is None:
        print("PyTorch is not installed: no rows for it")
        settings.remove(PYTORCH)
    found: dict[tuple[str, str], list[dict[str, float]]] = {}
    with tempfile.TemporaryDirectory() as folder:
        in_own_process(write_images, folder)
        for _ in range(args.rounds):
            for network in args.networks:
                for setting in settings:
                    work = measure_torch if setting == PYTORCH else measure
                    try:
                        one = in_own_process(work, network, setting, folder, args)
                    except (RuntimeError, NotImplementedError, BrokenProcessPool) as error:
                        print(f"{network}, {setting}: failed: {str(error).strip()[-200:]}")
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
    made.add_argument("--steps", type=int, default=5, help="measured steps of each process")
    made.add_argument("--batch", type=int, default=8)
    return made.parse_args()


def row(
    network: str, setting: str, medians: dict[tuple[str, str], dict[str, float]]
) -> dict[str, Any]:
    one = medians[network, setting]

    def speedup_over(other: str) -> float | str:
        reference = medians.get((network, other))
        return reference["step"] / one["step"] if reference else "-"

    return {
        "network": network,
        "setting": setting,
        "step s": one["step"],
        "samples/s": one["samples"] / one["step"],
        "data wait %": 100 * one["wait"],
        f"x {PADDLE}": speedup_over(PADDLE),
        f"x {PYTORCH}": speedup_over(PYTORCH),
        "peak MiB": one["peak"],
    }


def in_own_process(work: Any, *arguments: object) -> Any:
    fresh = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, fresh) as process:
        return process.submit(work, *arguments).result()


def write_images(folder: str) -> None:
    from ppose.synthetic import write_coco

    write_coco(Path(folder), "train", IMAGES, seed=0, size_wh=(640, 480))


def measure(network: str, setting: str, folder: str, args: argparse.Namespace) -> dict[str, float]:
    """Seconds of the trainer's steps, and the fraction spent waiting for data."""
    os.environ.update(ENVIRONMENT[setting])
    warnings.simplefilter("ignore")
    import ppose  # noqa: F401  sets up the CPU before Paddle is imported
    from ppose.models import kernels
    from ppose.training.setup import prepare

    if setting.startswith(PADDLE):
        kernels.numba = None
    trainer = prepare(experiment_of(network, folder, args, setting), hooks=[])
    with closing(trainer.data.batches()) as batches:
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
        "epochs": WARMUP + args.steps,  # with at least one step each
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
    """The same for PyTorch, on one batch of noise."""
    warnings.simplefilter("ignore")
    import torch

    from ppose.utils.cpu import usable_cores

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

    from ppose.convert.reference import hrnet as torch_hrnet
    from ppose.convert.reference import imhn as torch_imhn
    from ppose.convert.reference import lite_hrnet as torch_lite_hrnet

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
    """Peak resident memory of this process in MiB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


if __name__ == "__main__":
    main()
