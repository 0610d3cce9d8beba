"""Exported networks in each backend: latency, throughput, memory, load time, and end-to-end time.

    python benchmarks/infer.py [--models CONFIG ...] [--backends ...] [--precisions ...]
        [--batches 1 8] [--end_to_end CONFIG ...] [--weights CONFIG=FILE ...]
        [--det_model_dir DIR] [--folder DIR] [--json FILE]

Each row of the first table is a new process that loads one network and runs it from array to array.
All rows of a batch size alternate, each with the cores to itself.

- engine: what runs the network inside Paddle Inference.
- x best: p50 divided by that of the fastest backend for this network, batch size and precision.
- load s: from files to a network ready to run, without the import of the backend; first ms: its
  first run.
- MiB: peak resident memory of loading and all runs minus that after the import; process MiB is the
  peak itself.

The second table is the time from an image of 1280×720 to poses, in milliseconds by stage: detector
(without one, the true boxes are given), crop, network, decode. The times are medians, so they need
not add up to the total. Top-down networks run on a crop of each person, at most 8 per batch; found
is the number of poses.

A network without weights has random ones, with batch-norm statistics estimated on synthetic people:
with the initial statistics, activations become denormal numbers, which are slow. int8 is calibrated
on the same people, by the rules of CONFIG_pact.yml if it exists. Flip tests are off. Exports in
--folder are reused as long as the code that creates them is the same.
"""

from __future__ import annotations

import argparse
import hashlib
import importlib
import importlib.metadata
import json
import os
import platform
import tempfile
import time
import warnings
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from report import ROOT, parser, report
from turns import TURN, Measurement, Turns, Work, own_process, peak

from ppose.deploy.backends.settings import BACKENDS, DEVICES, PACKAGES, PRECISIONS
from ppose.utils.progress import progress

if TYPE_CHECKING:
    from ppose.compression.quantize import Quantization
    from ppose.experiment import Experiment

MODELS = (
    *("hrnet_w32_256x192", "lite_hrnet_18_256x192_coco", "lite_hrnet_30_256x192_coco"),
    *("tinypose_256x192", "tinypose_128x96", "imhn_4stack_512x512_coco"),
    *("quickstart", "imhn_quickstart"),
)
SLOW = {"imhn_4stack_512x512_coco"}  # batch 1 only
END_TO_END = ("tinypose_256x192", "imhn_quickstart")
IMAGE_WH = (1280, 720)
MAX_IMAGE_PEOPLE = 24
STAGES = ("detector", "crop", "network", "decode")
ALL = "all"

Bundles = dict[tuple[str, str], Path]


@dataclass(frozen=True)
class Combination:
    """A network in one precision and backend."""

    model: str
    precision: str
    backend: str


def main() -> None:
    args = arguments()
    rows: list[dict[str, Any]] = []
    end_to_end: list[dict[str, Any]] = []
    not_run: list[dict[str, Any]] = []
    with folder_of(args) as folder:
        bundles = exported(args, folder)
        for batch in args.batches:
            with Turns(f"batch {batch}") as turns:
                rows += network_rows(turns, batch, bundles, args)
            not_run += failures(turns)
        with Turns("end to end") as turns:
            end_to_end += end_to_end_rows(turns, bundles, args)
        not_run += failures(turns)
    for table in (rows, end_to_end, not_run):
        if table:
            report(table, None)
            print()
    if args.json:
        found = machine(args) | {"rows": rows, "end_to_end": end_to_end, "not_run": not_run}
        Path(args.json).write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


def arguments() -> argparse.Namespace:
    made = parser(__doc__)
    made.add_argument("--models", nargs="*", metavar="CONFIG", default=MODELS)
    made.add_argument("--backends", nargs="+", choices=BACKENDS, default=BACKENDS)
    made.add_argument("--precisions", nargs="+", choices=PRECISIONS, default=("fp32", "int8"))
    made.add_argument("--batches", nargs="*", type=int, metavar="N", default=(1, 8))
    made.add_argument("--end_to_end", nargs="*", metavar="CONFIG", default=END_TO_END)
    made.add_argument("--people", nargs="+", type=int, metavar="N", default=(1, 5, 20))
    made.add_argument("--det_model_dir", metavar="DIR", help="person detector; default: true boxes")
    made.add_argument("--weights", nargs="+", metavar="CONFIG=FILE", default=())
    made.add_argument("--device", choices=DEVICES, default="cpu")
    made.add_argument("--threads", type=int, default=2, help="CPU threads; default 2")
    made.add_argument("--rounds", type=int, default=10, help=f"rounds of {TURN} s; default 10")
    made.add_argument(
        "--folder", metavar="DIR", help="folder for exports; default: a temporary one"
    )
    args = made.parse_args()
    if min(args.threads, args.rounds, *args.batches, *args.people) < 1:
        made.error("--threads, --rounds, --batches and --people start at 1")
    if max(args.people) > MAX_IMAGE_PEOPLE:
        made.error(f"--people: at most {MAX_IMAGE_PEOPLE}")
    if any("=" not in text for text in args.weights):
        made.error("--weights: expected CONFIG=FILE")
    args.weights = dict(text.split("=", 1) for text in args.weights)
    models = (*args.models, *args.end_to_end)
    for name in args.weights:
        if name not in models:
            made.error(f"--weights: '{name}' is none of {', '.join(dict.fromkeys(models))}")
    for file in (*map(config_of, models), *map(Path, args.weights.values())):
        if not file.is_file():
            made.error(f"no file {file}")
    return args


def config_of(model: str) -> Path:
    return ROOT / "configs" / f"{model}.yml"


def combinations(models: Iterable[str], args: argparse.Namespace) -> list[Combination]:
    return [Combination(m, p, b) for m in models for p in args.precisions for b in args.backends]


def machine(args: argparse.Namespace) -> dict[str, Any]:
    """Facts that the results depend on."""
    versions = {}
    for package in (package for backend in args.backends for package in PACKAGES[backend]):
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    settings = {name: getattr(args, name) for name in ("device", "threads", "rounds")}
    facts = {"machine": platform.machine(), "cores": os.cpu_count(), "versions": versions}
    return facts | settings


def failures(turns: Turns) -> list[dict[str, Any]]:
    return [asdict(one) | {"not run": turns.what, "why": turns.failed[one]} for one in turns.failed]


@contextmanager
def folder_of(args: argparse.Namespace) -> Iterator[Path]:
    """The folder for exports by this code with these weights."""
    made_by = [Path(__file__), *(ROOT / "configs").rglob("*.*")]
    for room in ("codecs", "compression", "export", "models"):
        made_by += (ROOT / "ppose" / room).glob("*.py")
    digest = hashlib.sha256(repr(sorted(args.weights)).encode())
    for path in [*sorted(made_by), *(args.weights[model] for model in sorted(args.weights))]:
        digest.update(Path(path).read_bytes())
    with ExitStack() as stack:
        folder = args.folder or stack.enter_context(tempfile.TemporaryDirectory())
        yield Path(folder) / digest.hexdigest()[:12]


def exported(args: argparse.Namespace, folder: Path) -> Bundles:
    """(network, precision) → bundle, exported if it is missing."""
    bundles = {
        (model, precision): folder / (f"{model}_int8" if precision == "int8" else model)
        for model in (*args.models, *args.end_to_end)
        for precision in args.precisions
    }
    missing = {path: key for key, path in bundles.items() if not (path / "pose.yml").is_file()}
    with own_process() as process, progress(len(missing), "export", "network") as bar:
        for path, (model, precision) in missing.items():
            weights = args.weights.get(model)
            process.submit(export, model, precision == "int8", path, weights).result()
            bar.update()
    return bundles


def export(model: str, int8: bool, folder: Path, weights: str | None) -> None:
    """Exports a network."""
    warnings.simplefilter("ignore")
    import ppose  # noqa: F401, I001  sets up the CPU before Paddle is imported
    import paddle
    from ppose.compression.calibrate import calibrate
    from ppose.experiment import Experiment
    from ppose.export.write_bundle import export_bundle
    from ppose.optim.batch_norm import reestimate_batch_norm
    from ppose.weights.loading import load_weights

    paddle.seed(0)
    experiment = Experiment.from_file(config_of(model), ["flip_test=false", "quantize=null"])
    network, weights = experiment.model, weights or experiment.weights
    images = [experiment.normalize(drawn_people(experiment))]
    if weights:
        load_weights(network, weights)
    else:
        reestimate_batch_norm(network, images, 1)
    if int8:
        quantization_of(model).apply(network)
        calibrate(network, images, 1)
    export_bundle(experiment, folder, weights=weights)


def drawn_people(experiment: Experiment, count: int = 2) -> np.ndarray:
    """(count, H, W, 3) uint8 inputs of the network, at most 256×256."""
    from ppose.synthetic import render_scene

    width, height = (min(side, 256) for side in experiment.codec.size_wh)
    rngs = map(np.random.default_rng, range(count))
    return np.stack([render_scene(rng, (width, height), "easy", 1).image for rng in rngs])


def quantization_of(model: str) -> Quantization:
    """Quantization settings of a network."""
    from ppose.compression.quantize import Quantization
    from ppose.experiment import Experiment

    path = config_of(f"{model}_pact")
    experiment = Experiment.from_file(path if path.is_file() else config_of(model))
    return experiment.quantize or Quantization()


def network_rows(
    turns: Turns, batch: int, bundles: Bundles, args: argparse.Namespace
) -> list[dict[str, Any]]:
    """Rows of the first table for a batch size."""
    chosen = combinations([m for m in args.models if batch == 1 or m not in SLOW], args)
    with progress(len(chosen), f"{turns.what}: load", "network") as bar:
        for one in chosen:
            turns.start(one, start_network, one, bundles[one.model, one.precision], batch, args)
            bar.update()
    measured = turns.run(args.rounds, [batch]).items()
    rows = [network_row(one, batch, found) for one, found in measured]
    for row in rows:
        alike = [r for r in rows if all(r[key] == row[key] for key in ("model", "precision"))]
        row["x best"] = row["p50 ms"] / min(r["p50 ms"] for r in alike)
    return rows


def network_row(one: Combination, batch: int, found: Measurement) -> dict[str, Any]:
    ms, facts = found.ms(batch, ALL), found.facts
    return {
        "batch": batch,
        **asdict(one),
        "engine": facts["engine"],
        "p50 ms": float(np.median(ms)),
        "p95 ms": float(np.percentile(ms, 95)),
        "x best": 1.0,
        "inputs/s": 1000 * batch / float(ms.mean()),
        "load s": facts["load s"],
        "first ms": facts["first ms"],
        "MiB": found.peak - facts["imported MiB"],
        "process MiB": found.peak,
        "runs": len(ms),
    }


def end_to_end_rows(
    turns: Turns, bundles: Bundles, args: argparse.Namespace
) -> list[dict[str, Any]]:
    """Rows of the second table."""
    chosen = combinations(args.end_to_end, args)
    with progress(len(chosen), f"{turns.what}: load", "network") as bar:
        for one in chosen:
            turns.start(one, start_pipeline, bundles[one.model, one.precision], one, args)
            bar.update()
    times = turns.run(args.rounds, args.people)
    return [end_to_end_row(one, people, times[one]) for one in times for people in args.people]


def end_to_end_row(one: Combination, people: int, found: Measurement) -> dict[str, Any]:
    whole = found.ms(people, ALL)
    stages = {name: found.ms(people, name) for name in STAGES}
    stages["rest"] = whole - sum(stages.values())
    return {
        **asdict(one),
        "boxes": found.facts["boxes"],
        "people": people,
        "found": found.facts["found"][people],
        **{f"{name} ms": float(np.median(ms)) for name, ms in stages.items()},
        "all p50": float(np.median(whole)),
        "all p95": float(np.percentile(whole, 95)),
        "runs": len(whole),
    }


def start_network(
    one: Combination, folder: Path, batch: int, args: argparse.Namespace
) -> tuple[dict[str, Any], Work]:
    """Loads a network and runs it once; each run is a batch."""
    from ppose.deploy.backends.timing import example_inputs
    from ppose.deploy.bundle import Bundle
    from ppose.deploy.session_runner import load_runner

    importlib.import_module(f"ppose.deploy.backends.{one.backend}")
    imported, start = peak(), time.perf_counter()
    bundle = Bundle(folder)
    session = load_runner(bundle, **load_options(one, args)).session
    loaded = time.perf_counter() - start
    inputs = example_inputs(session, batch, size_wh=bundle.codec.size_wh)

    def run(_: int) -> dict[str, float]:
        start = time.perf_counter()
        session.run(*inputs)
        return {ALL: time.perf_counter() - start}

    first = run(batch)[ALL]
    facts = {"imported MiB": imported, "load s": loaded, "first ms": 1000 * first}
    return facts | {"engine": session.engine}, run


def start_pipeline(
    folder: Path, one: Combination, args: argparse.Namespace
) -> tuple[dict[str, Any], Work]:
    """Loads a pose pipeline; each run is an image with the given number of people."""
    import cv2

    from ppose.deploy.bundle import Bundle
    from ppose.deploy.pipeline import load_pipeline
    from ppose.inference.request import Request

    cv2.setNumThreads(args.threads)
    detector = args.det_model_dir if Bundle(folder).crop.uses_boxes else None
    find = load_pipeline(folder, detector, **load_options(one, args))
    requests = {}
    for people in args.people:
        image, boxes = draw_image(people)
        requests[people] = Request(
            image, boxes if find.uses_boxes else None, box_source="true boxes"
        )

    def run(people: int) -> dict[str, float]:
        before, start = dict(find.timer.seconds), time.perf_counter()
        next(find.run([requests[people]]))
        spent = time.perf_counter() - start
        stages = find.timer.seconds
        return {name: stages[name] - before.get(name, 0.0) for name in stages} | {ALL: spent}

    found = {people: next(find.run([request])) for people, request in requests.items()}
    facts = {
        "boxes": found[args.people[0]].box_source,
        "found": {people: len(poses) for people, poses in found.items()},
    }
    return facts, run


def load_options(one: Combination, args: argparse.Namespace) -> dict[str, Any]:
    """Arguments for loading a bundle."""
    return {
        "backend": one.backend,
        "precision": one.precision,
        "device": args.device,
        "threads": args.threads,
    }


def draw_image(people: int) -> tuple[np.ndarray, np.ndarray]:
    """An image (H, W, 3) and the boxes (people, 4) of its people: one scene, or a grid of four."""
    from ppose.synthetic import render_scene
    from ppose.synthetic.scene import MAX_PEOPLE

    sides = 1 if people <= MAX_PEOPLE else 2
    width, height = (side // sides for side in IMAGE_WH)
    image, boxes = np.empty((*IMAGE_WH[::-1], 3), np.uint8), []
    for i, part in enumerate(np.array_split(np.arange(people), sides**2)):
        scene = render_scene(np.random.default_rng(i), (width, height), "easy", len(part))
        y, x = height * (i // sides), width * (i % sides)
        image[y : y + height, x : x + width] = scene.image
        boxes.append(scene.boxes_xywh + np.array((x, y, 0, 0), np.float32))
    return image, np.concatenate(boxes)


if __name__ == "__main__":
    main()
