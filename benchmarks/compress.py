"""AP with distillation and int8, on synthetic people who occlude each other.

    python benchmarks/compress.py --seeds 0 1 2 --jobs 2 [--folder DIR] [--teacher FILE]
        [--json FILE]

Each seed has its own training images, initial weights and order of samples, shared by all
settings. AP, in percent, is that of the eager networks after the last step, on held-out images with
annotated boxes.

- alone: the student of compress/student.yml.
- distilled: the same for as many steps, with the teacher of compress/teacher.yml.
- PTQ: `alone` in int8 by post-training quantization.
- PACT: `alone` fine-tuned in int8 by compress/student_pact.yml.
- float, trained on: `alone` fine-tuned in float for as many steps as PACT, to separate the effect
  of int8 from that of more steps.
- distilled + PACT: `distilled` fine-tuned in int8 with the teacher.

`gain` is the AP minus that of `from` with the same seed, averaged over seeds. A spread is the
standard deviation over seeds. The teacher is trained too, unless --teacher gives its weights. With
--folder, images and runs are kept, and an interrupted study is resumed.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from statistics import mean, stdev
from typing import TYPE_CHECKING, Any

from report import ROOT, parser, report

if TYPE_CHECKING:
    from ppose.experiment import Experiment

CONFIGS = ROOT / "benchmarks" / "compress"
TEACHER, ALONE, DISTILLED = "teacher", "alone", "distilled"
# Seed of the images of the teacher and for evaluation; training images use the seed of the run.
IMAGES_SEED = 1
TEACHER_IMAGES, TRAINING_IMAGES, HELD_OUT_IMAGES = 2400, 60, 300


@dataclass(frozen=True)
class Setting:
    """A way to train or quantize the student.

    Attributes:
        config: file in compress/, without suffix.
        start: setting whose weights it starts from, and with whose AP it is compared.
        distills: whether it has a teacher.
        trains: whether it is trained, not only calibrated.
        overrides: overrides of the config.
    """

    config: str
    start: str | None = None
    distills: bool = False
    trains: bool = True
    overrides: tuple[str, ...] = ()


# Name of a setting, or TEACHER, and the seed.
Key = tuple[str, int | None]

# The settings of a stage depend on earlier stages only.
STAGES: list[dict[str, Setting]] = [
    {ALONE: Setting("student")},
    {
        DISTILLED: Setting("student", distills=True),
        "PTQ": Setting("student_pact", ALONE, trains=False),
        "PACT": Setting("student_pact", ALONE),
        "float, trained on": Setting("student_pact", ALONE, overrides=("quantize=null",)),
    },
    {"distilled + PACT": Setting("student_pact", DISTILLED, distills=True)},
]
SETTINGS = {name: setting for stage in STAGES for name, setting in stage.items()}


@dataclass(frozen=True)
class Result:
    """AP in percent, and the time in seconds."""

    ap: float
    seconds: float


def main() -> None:
    args = arguments()
    # Before ppose is imported, here and in child processes.
    os.environ["OMP_NUM_THREADS"] = "1"
    with folder_of(args) as folder:
        rows = study(folder, args)
    report(rows, args.json)


def arguments() -> argparse.Namespace:
    made = parser(__doc__)
    made.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    made.add_argument(
        "--jobs", type=int, default=1, help="number of processes, with one thread each"
    )
    made.add_argument("--folder", type=Path, help="folder for images and runs; default: temporary")
    made.add_argument("--teacher", type=Path, metavar="FILE", help="weights of a trained teacher")
    args = made.parse_args()
    if args.teacher and not args.teacher.is_file():
        made.error(f"--teacher: no file {args.teacher}")
    return args


@contextmanager
def folder_of(args: argparse.Namespace) -> Iterator[Path]:
    if args.folder:
        yield args.folder
        return
    with tempfile.TemporaryDirectory() as folder:
        yield Path(folder)


def study(folder: Path, args: argparse.Namespace) -> list[dict[str, Any]]:
    """Runs all settings with all seeds; returns the rows of the report."""
    draw_images(folder, args)
    teacher = args.teacher or folder / TEACHER / "best.safetensors"
    fresh = multiprocessing.get_context("spawn")
    found: dict[Key, Result] = {}
    with ProcessPoolExecutor(args.jobs, fresh) as pool:
        for i, stage in enumerate(STAGES):
            work: dict[Key, Callable[[], Result]] = {}
            if i == 0:
                work[TEACHER, None] = partial(run_teacher, folder, args.teacher)
            for seed in args.seeds:
                for name in stage:
                    work[name, seed] = partial(run, folder, name, seed, teacher)
            found |= results(pool, work)
    return [
        {"setting": TEACHER, **numbers([found[TEACHER, None]]), **NO_GAIN},
        *(row(name, setting, found, args.seeds) for name, setting in SETTINGS.items()),
    ]


def results(pool: ProcessPoolExecutor, work: dict[Key, Callable[[], Result]]) -> dict[Key, Result]:
    """Results by setting and seed, printed as they become available."""
    futures = {pool.submit(call): key for key, call in work.items()}
    found = {}
    for future in as_completed(futures):
        name, seed = key = futures[future]
        found[key] = one = future.result()
        place = name if seed is None else f"{name}, seed {seed}"
        print(f"{place}: AP {one.ap:.2f}, {one.seconds:.0f} s", flush=True)
    return found


NO_GAIN = {"from": "-", "gain": "-", "gain spread": "-", "gains": "-"}


def row(name: str, setting: Setting, found: dict[Key, Result], seeds: list[int]) -> dict[str, Any]:
    own = {"setting": name, **numbers([found[name, seed] for seed in seeds])}
    base = setting.start or (ALONE if setting.distills else None)
    if base is None:
        return own | NO_GAIN
    gains = [found[name, seed].ap - found[base, seed].ap for seed in seeds]
    return own | {
        "from": base,
        "gain": mean(gains),
        "gain spread": spread(gains),
        "gains": joined(gains, "+.2f"),
    }


def numbers(of_seeds: list[Result]) -> dict[str, Any]:
    aps = [one.ap for one in of_seeds]
    return {
        "AP": mean(aps),
        "AP spread": spread(aps),
        "APs": joined(aps, ".2f"),
        "run s": mean(one.seconds for one in of_seeds),
    }


def spread(values: list[float]) -> float | str:
    return stdev(values) if len(values) > 1 else "-"


def joined(values: list[float], form: str) -> str:
    return " ".join(format(value, form) for value in values)


def draw_images(folder: Path, args: argparse.Namespace) -> None:
    """Draws the training images of each seed, and the images that all seeds share."""
    from ppose.synthetic import write_coco

    wanted = [(f"train_{seed}", TRAINING_IMAGES, seed) for seed in args.seeds]
    wanted.append(("held_out", HELD_OUT_IMAGES, IMAGES_SEED))
    wanted.append((TEACHER, TEACHER_IMAGES, IMAGES_SEED))
    if args.teacher:
        wanted.pop()
    for split, count, seed in wanted:
        write_coco(folder / "images", split, count, seed, difficulty="hard", workers=args.jobs)


def data(folder: Path, split: str) -> list[str]:
    """Overrides for the training images and the held-out images."""
    overrides = []
    for key, of in (("train_dataset", split), ("val_dataset", "held_out")):
        annotations = folder / "images" / "annotations" / f"person_keypoints_{of}.json"
        overrides += [
            f"{key}.image_dir={folder / 'images' / of}",
            f"{key}.anno_path={annotations}",
        ]
    return overrides


def run_teacher(folder: Path, weights: Path | None) -> Result:
    """Evaluates the teacher, after training it unless its weights are given."""
    overrides = [f"output_dir={folder / TEACHER}", *data(folder, TEACHER)]
    return timed(scored if weights else trained, CONFIGS / "teacher.yml", overrides, None, weights)


def run(folder: Path, name: str, seed: int, teacher: Path) -> Result:
    """Trains or calibrates the network of a setting with a seed, and evaluates it."""
    setting = SETTINGS[name]
    overrides = [
        *setting.overrides,
        *data(folder, f"train_{seed}"),
        f"seed={seed}",
        f"output_dir={run_folder(folder, name, seed)}",
    ]
    start = None
    if setting.start:
        start = run_folder(folder, setting.start, seed) / "best.safetensors"
        overrides.append(f"pretrain_weights={start}")
    distill_config = None
    if setting.distills:
        distill_config = CONFIGS / "teacher.yml"
        overrides.append(f"teacher.weights={teacher}")
    work = trained if setting.trains else calibrated
    return timed(work, CONFIGS / f"{setting.config}.yml", overrides, distill_config, start)


def run_folder(folder: Path, name: str, seed: int) -> Path:
    plain = name.replace(",", "").replace(" + ", "_").replace(" ", "_").lower()
    return folder / f"{plain}_{seed}"


def timed(
    work: Callable[[Experiment, Path | None], float],
    config: Path,
    overrides: list[str],
    distill_config: Path | None,
    weights: Path | None,
) -> Result:
    """Calls `work` with an experiment; it returns an AP in 0..1, and its output is discarded."""
    warnings.simplefilter("ignore")
    with Path(os.devnull).open("w") as null, redirect_stdout(null), redirect_stderr(null):
        from ppose.experiment import Experiment

        experiment = Experiment.from_file(config, overrides, distill_config)
        started = time.perf_counter()
        ap = work(experiment, weights)
        return Result(100 * ap, time.perf_counter() - started)


def trained(experiment: Experiment, _: Path | None) -> float:
    """AP after the last step; resumes an earlier run, or takes the AP of a finished one."""
    from ppose.training.checkpoints import Checkpoints
    from ppose.training.setup import train

    states = Checkpoints.of_run(experiment.output_dir)
    best = train(experiment, resume=states.exists).state.best
    assert best is not None, "the configs evaluate after the last epoch"
    return best


def calibrated(experiment: Experiment, weights: Path | None) -> float:
    """AP after post-training quantization."""
    from ppose.training.post_training import quantize_trained

    quantized, _ = quantize_trained(experiment, weights)
    return ap_of(quantized)


def scored(experiment: Experiment, weights: Path | None) -> float:
    """AP of trained weights."""
    from ppose.weights.loading import load_weights

    assert weights is not None
    load_weights(experiment.model, weights)
    return ap_of(experiment)


def ap_of(experiment: Experiment) -> float:
    from ppose.evaluation import evaluate

    return evaluate(experiment.estimator(), experiment.val_dataset, experiment.metric).ap


if __name__ == "__main__":
    main()
