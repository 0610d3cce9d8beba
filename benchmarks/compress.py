"""What distillation gains and what int8 costs, on synthetic people who hide each other.

    python benchmarks/compress.py --seeds 0 1 2 --jobs 2 [--folder DIR] [--teacher FILE]
        [--json FILE]

Each seed has its own training pictures, first weights and order of samples, which its settings
share. AP, in percent, is that of the eager networks, behind the last step, on held-out pictures
with the annotated boxes.

- alone: the student of compress/student.yml.
- distilled: the same, for as many steps, with the teacher of compress/teacher.yml.
- PTQ: `alone` in int8, calibrated.
- PACT: `alone` trained on in int8, by compress/student_pact.yml.
- float, trained on: `alone` trained on for the steps of PACT, so that what int8 costs and what
  more steps give can be told apart.
- distilled + PACT: `distilled` trained on in int8 with the teacher.

`gain` is the mean over seeds of the AP less that of `from` with the same seed. A spread is the
standard deviation over seeds. The teacher is trained, too, unless --teacher names its weights. A
folder keeps pictures and runs; with it, a study that was stopped goes on.
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
# Of the teacher's and the held-out pictures; the training pictures take the seed of the run.
PICTURES_SEED = 1
TEACHER_PICTURES, TRAINING_PICTURES, HELD_OUT_PICTURES = 2400, 60, 300


@dataclass(frozen=True)
class Setting:
    """One way to a network.

    Attributes:
        config: file in compress/, without its ending.
        start: setting whose weights it starts from, and whose AP its own is compared to.
        distills: whether a teacher is there.
        trains: or calibrates only.
        overrides: of the config.
    """

    config: str
    start: str | None = None
    distills: bool = False
    trains: bool = True
    overrides: tuple[str, ...] = ()


# Name of a setting, or TEACHER, and the seed.
Key = tuple[str, int | None]

# Those in one dict wait for no other of it.
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
    """AP in percent, and the seconds that it took to get there."""

    ap: float
    seconds: float


def main() -> None:
    args = arguments()
    # Before ppose is imported, here and in the processes that this one starts.
    os.environ["OMP_NUM_THREADS"] = "1"
    with folder_of(args) as folder:
        rows = study(folder, args)
    report(rows, args.json)


def arguments() -> argparse.Namespace:
    made = parser(__doc__)
    made.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    made.add_argument("--jobs", type=int, default=1, help="processes, of one thread each")
    made.add_argument("--folder", type=Path, help="for pictures and runs (a temporary one)")
    made.add_argument("--teacher", type=Path, metavar="FILE", help="weights of a trained teacher")
    args = made.parse_args()
    if args.teacher and not args.teacher.is_file():
        made.error(f"--teacher: there is no file {args.teacher}")
    return args


@contextmanager
def folder_of(args: argparse.Namespace) -> Iterator[Path]:
    if args.folder:
        yield args.folder
        return
    with tempfile.TemporaryDirectory() as folder:
        yield Path(folder)


def study(folder: Path, args: argparse.Namespace) -> list[dict[str, Any]]:
    """Runs all settings with all seeds; the rows of the report."""
    draw_pictures(folder, args)
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
    """Results by setting and seed; each is printed when it is there."""
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


def draw_pictures(folder: Path, args: argparse.Namespace) -> None:
    """Training pictures of each seed, and those that all share."""
    from ppose.data.synthetic import write_coco

    wanted = [(f"train_{seed}", TRAINING_PICTURES, seed) for seed in args.seeds]
    wanted.append(("held_out", HELD_OUT_PICTURES, PICTURES_SEED))
    wanted.append((TEACHER, TEACHER_PICTURES, PICTURES_SEED))
    if args.teacher:
        wanted.pop()
    for split, count, seed in wanted:
        write_coco(folder / "pictures", split, count, seed, difficulty="hard", workers=args.jobs)


def data(folder: Path, split: str) -> list[str]:
    """Overrides that name the pictures to train on, and the held-out ones."""
    overrides = []
    for key, of in (("train_dataset", split), ("val_dataset", "held_out")):
        annotations = folder / "pictures" / "annotations" / f"person_keypoints_{of}.json"
        overrides += [
            f"{key}.image_dir={folder / 'pictures' / of}",
            f"{key}.anno_path={annotations}",
        ]
    return overrides


def run_teacher(folder: Path, weights: Path | None) -> Result:
    """Scores the teacher, which is trained first unless its weights are given."""
    overrides = [f"output_dir={folder / TEACHER}", *data(folder, TEACHER)]
    return timed(scored if weights else trained, CONFIGS / "teacher.yml", overrides, None, weights)


def run(folder: Path, name: str, seed: int, teacher: Path) -> Result:
    """Makes and scores the network of one setting with one seed."""
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
    """Calls `work`, which gives an AP in 0..1, with an experiment; what it prints is dropped."""
    warnings.simplefilter("ignore")
    with Path(os.devnull).open("w") as nowhere, redirect_stdout(nowhere), redirect_stderr(nowhere):
        from ppose.experiment import Experiment

        experiment = Experiment.from_file(config, overrides, distill_config)
        started = time.perf_counter()
        ap = work(experiment, weights)
        return Result(100 * ap, time.perf_counter() - started)


def trained(experiment: Experiment, _: Path | None) -> float:
    """AP behind the last step; a run of before goes on or is taken as it is."""
    from ppose.engine.trainer import STATES, Checkpoints, train

    states = Checkpoints(Path(experiment.output_dir) / STATES)
    best = train(experiment, resume=states.exists).best
    assert best is not None, "the configs evaluate behind the last epoch"
    return best


def calibrated(experiment: Experiment, weights: Path | None) -> float:
    """AP behind post-training quantization."""
    from ppose.slim.post_training import quantize_trained

    quantized, _ = quantize_trained(experiment, weights)
    return ap_of(quantized)


def scored(experiment: Experiment, weights: Path | None) -> float:
    """AP of trained weights."""
    from ppose.checkpoint import load_weights

    assert weights is not None
    load_weights(experiment.model, weights)
    return ap_of(experiment)


def ap_of(experiment: Experiment) -> float:
    from ppose.engine.evaluate import evaluate

    return evaluate(experiment.estimator(), experiment.val_dataset, experiment.metric).ap


if __name__ == "__main__":
    main()
