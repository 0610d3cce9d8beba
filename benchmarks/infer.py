"""Exported networks by each backend: latency, throughput, memory, load time; and whole pictures.

    python benchmarks/infer.py [--models CONFIG ...] [--backends ...] [--precisions ...]
        [--batches 1 8] [--end_to_end CONFIG ...] [--weights CONFIG=FILE ...]
        [--det_model_dir DIR] [--folder DIR] [--json FILE]

Each row of the first table is a process of its own that loads one network and runs it from array
to array; all rows of a batch size take turns, each with the cores for itself.

- engine: what runs it inside Paddle Inference.
- x best: p50 by that of the fastest backend for this network, batch size and precision.
- load s: from files to a network that can be run, without the import of the backend; first ms: its
  first run.
- MiB: what loading and all runs add to the peak of resident memory behind the import; process MiB
  is that peak.

The second table is the way from a picture of 1280×720 to poses, in milliseconds by stage: detector
(without one the true boxes are given), crop, network, decode. Stages are medians, so they need not
add up to all. Top-down networks take a crop of each person, 8 at most in a run; found is the number
of poses that came out.

A network without weights has random ones, with batch norms measured on drawn people: untouched
ones let activations fade to denormal numbers, which are slow. int8 is calibrated on the same
people, by the rules of CONFIG_pact.yml where there is one. Flip tests are off. Exports stay in
--folder and are used again as long as the code that makes them is the same.
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
from turns import TURN, Found, Turns, Work, own_process, peak

from ppose.deploy.session import BACKENDS, DEVICES, PACKAGES, PRECISIONS
from ppose.progress import progress

if TYPE_CHECKING:
    from ppose.experiment import Experiment
    from ppose.slim.quantize import Quantization

MODELS = (
    *("hrnet_w32_256x192", "lite_hrnet_18_256x192_coco", "lite_hrnet_30_256x192_coco"),
    *("tinypose_256x192", "tinypose_128x96", "imhn_4stack_512x512_coco"),
    *("quickstart", "imhn_quickstart"),
)
SLOW = {"imhn_4stack_512x512_coco"}  # batch 1 only
END_TO_END = ("tinypose_256x192", "imhn_quickstart")
PICTURE_WH = (1280, 720)
MOST_PEOPLE = 24
STAGES = ("detector", "crop", "network", "decode")
ALL = "all"

Bundles = dict[tuple[str, str], Path]


@dataclass(frozen=True)
class Combination:
    """A network in the hands of one backend."""

    model: str
    precision: str
    backend: str


def main() -> None:
    args = arguments()
    rows: list[dict[str, Any]] = []
    pictures: list[dict[str, Any]] = []
    not_run: list[dict[str, Any]] = []
    with folder_of(args) as folder:
        bundles = exported(args, folder)
        for batch in args.batches:
            with Turns(f"batch {batch}") as turns:
                rows += network_rows(turns, batch, bundles, args)
            not_run += failures(turns)
        with Turns("end to end") as turns:
            pictures += picture_rows(turns, bundles, args)
        not_run += failures(turns)
    for table in (rows, pictures, not_run):
        if table:
            report(table, None)
            print()
    if args.json:
        found = machine(args) | {"rows": rows, "end_to_end": pictures, "not_run": not_run}
        Path(args.json).write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


def arguments() -> argparse.Namespace:
    made = parser(__doc__)
    made.add_argument("--models", nargs="*", metavar="CONFIG", default=MODELS)
    made.add_argument("--backends", nargs="+", choices=BACKENDS, default=BACKENDS)
    made.add_argument("--precisions", nargs="+", choices=PRECISIONS, default=("fp32", "int8"))
    made.add_argument("--batches", nargs="*", type=int, metavar="N", default=(1, 8))
    made.add_argument("--end_to_end", nargs="*", metavar="CONFIG", default=END_TO_END)
    made.add_argument("--people", nargs="+", type=int, metavar="N", default=(1, 5, 20))
    made.add_argument("--det_model_dir", metavar="DIR", help="a detector; default: true boxes")
    made.add_argument("--weights", nargs="+", metavar="CONFIG=FILE", default=())
    made.add_argument("--device", choices=DEVICES, default="cpu")
    made.add_argument("--threads", type=int, default=2, help="of the CPU; default 2")
    made.add_argument("--rounds", type=int, default=10, help=f"turns of {TURN} s; default 10")
    made.add_argument("--folder", metavar="DIR", help="keeps exports; default: a temporary one")
    args = made.parse_args()
    if min(args.threads, args.rounds, *args.batches, *args.people) < 1:
        made.error("--threads, --rounds, --batches and --people start at 1")
    if max(args.people) > MOST_PEOPLE:
        made.error(f"--people: at most {MOST_PEOPLE}")
    if any("=" not in text for text in args.weights):
        made.error("--weights: expected CONFIG=FILE")
    args.weights = dict(text.split("=", 1) for text in args.weights)
    models = (*args.models, *args.end_to_end)
    for name in args.weights:
        if name not in models:
            made.error(f"--weights: '{name}' is none of {', '.join(dict.fromkeys(models))}")
    for file in (*map(config_of, models), *map(Path, args.weights.values())):
        if not file.is_file():
            made.error(f"there is no {file}")
    return args


def config_of(model: str) -> Path:
    return ROOT / "configs" / f"{model}.yml"


def combinations(models: Iterable[str], args: argparse.Namespace) -> list[Combination]:
    return [Combination(m, p, b) for m in models for p in args.precisions for b in args.backends]


def machine(args: argparse.Namespace) -> dict[str, Any]:
    """What the numbers depend on."""
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
    """Where the exports of this code and these weights are."""
    made_by = [Path(__file__), *(ROOT / "configs").rglob("*.*")]
    for room in ("codecs", "export", "models", "slim"):
        made_by += (ROOT / "ppose" / room).glob("*.py")
    digest = hashlib.sha256(repr(sorted(args.weights)).encode())
    for path in [*sorted(made_by), *(args.weights[model] for model in sorted(args.weights))]:
        digest.update(Path(path).read_bytes())
    with ExitStack() as stack:
        folder = args.folder or stack.enter_context(tempfile.TemporaryDirectory())
        yield Path(folder) / digest.hexdigest()[:12]


def exported(args: argparse.Namespace, folder: Path) -> Bundles:
    """Network and precision → its bundle."""
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
    """Writes a bundle."""
    warnings.simplefilter("ignore")
    import ppose  # noqa: F401, I001  sets up the CPU before Paddle is imported
    import paddle
    from ppose.checkpoint import load_weights
    from ppose.engine.norms import renew_norms
    from ppose.experiment import Experiment
    from ppose.export.bundle import export_bundle
    from ppose.slim.calibrate import calibrate

    paddle.seed(0)
    experiment = Experiment.from_file(config_of(model), ["flip_test=false", "quantize=null"])
    network, weights = experiment.model, weights or experiment.weights
    images = [experiment.normalize(drawn_people(experiment))]
    if weights:
        load_weights(network, weights)
    else:
        renew_norms(network, images, 1)
    if int8:
        rules_of(model).apply(network)
        calibrate(network, images, 1)
    export_bundle(experiment, folder, weights=weights)


def drawn_people(experiment: Experiment, count: int = 2) -> np.ndarray:
    """(count, H, W, 3) uint8 inputs of the network, of no more than 256×256."""
    from ppose.data.synthetic import render_scene

    width, height = (min(side, 256) for side in experiment.codec.size_wh)
    rngs = map(np.random.default_rng, range(count))
    return np.stack([render_scene(rng, (width, height), "easy", 1).image for rng in rngs])


def rules_of(model: str) -> Quantization:
    """What of a network becomes int8."""
    from ppose.experiment import Experiment
    from ppose.slim.quantize import Quantization

    path = config_of(f"{model}_pact")
    experiment = Experiment.from_file(path if path.is_file() else config_of(model))
    return experiment.quantize or Quantization()


def network_rows(
    turns: Turns, batch: int, bundles: Bundles, args: argparse.Namespace
) -> list[dict[str, Any]]:
    """The first table's rows of a batch size."""
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


def network_row(one: Combination, batch: int, found: Found) -> dict[str, Any]:
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


def picture_rows(turns: Turns, bundles: Bundles, args: argparse.Namespace) -> list[dict[str, Any]]:
    """The second table."""
    chosen = combinations(args.end_to_end, args)
    with progress(len(chosen), f"{turns.what}: load", "network") as bar:
        for one in chosen:
            turns.start(one, start_finder, bundles[one.model, one.precision], one, args)
            bar.update()
    times = turns.run(args.rounds, args.people)
    return [picture_row(one, people, times[one]) for one in times for people in args.people]


def picture_row(one: Combination, people: int, found: Found) -> dict[str, Any]:
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
    """Loads a network and runs it once; its turns are runs of a batch."""
    from ppose.deploy.bundle import Bundle
    from ppose.deploy.model import load_runner
    from ppose.deploy.timing import some_inputs

    importlib.import_module(f"ppose.deploy.backends.{one.backend}")
    imported, start = peak(), time.perf_counter()
    bundle = Bundle(folder)
    session = load_runner(bundle, **how(one, args)).session
    loaded = time.perf_counter() - start
    inputs = some_inputs(session, batch, size_wh=bundle.codec.size_wh)

    def run(_: int) -> dict[str, float]:
        start = time.perf_counter()
        session.run(*inputs)
        return {ALL: time.perf_counter() - start}

    first = run(batch)[ALL]
    facts = {"imported MiB": imported, "load s": loaded, "first ms": 1000 * first}
    return facts | {"engine": session.engine}, run


def start_finder(
    folder: Path, one: Combination, args: argparse.Namespace
) -> tuple[dict[str, Any], Work]:
    """Loads all that finds poses; its turns are pictures with so many people."""
    import cv2

    from ppose.deploy.bundle import Bundle
    from ppose.deploy.finder import load_finder
    from ppose.estimator import Request

    cv2.setNumThreads(args.threads)
    detector = args.det_model_dir if Bundle(folder).crop.uses_boxes else None
    find = load_finder(folder, detector, **how(one, args))
    requests = {}
    for people in args.people:
        image, boxes = picture(people)
        requests[people] = Request(
            image, boxes if find.uses_boxes else None, box_source="true boxes"
        )

    def run(people: int) -> dict[str, float]:
        before, start = dict(find.stages.seconds), time.perf_counter()
        next(find.run([requests[people]]))
        spent = time.perf_counter() - start
        stages = find.stages.seconds
        return {name: stages[name] - before.get(name, 0.0) for name in stages} | {ALL: spent}

    found = {people: next(find.run([request])) for people, request in requests.items()}
    facts = {
        "boxes": found[args.people[0]].box_source,
        "found": {people: len(poses) for people, poses in found.items()},
    }
    return facts, run


def how(one: Combination, args: argparse.Namespace) -> dict[str, Any]:
    """What opens a bundle as asked for."""
    asked = {"device": args.device, "threads": args.threads}
    return {"backend": one.backend, "precision": one.precision, **asked}


def picture(people: int) -> tuple[np.ndarray, np.ndarray]:
    """A picture (H, W, 3) and the boxes (people, 4) of whom it shows: one scene, or of many people
    four, side by side."""
    from ppose.data.synthetic import render_scene
    from ppose.data.synthetic.scene import MAX_PEOPLE

    sides = 1 if people <= MAX_PEOPLE else 2
    width, height = (side // sides for side in PICTURE_WH)
    image, boxes = np.empty((*PICTURE_WH[::-1], 3), np.uint8), []
    for i, part in enumerate(np.array_split(np.arange(people), sides**2)):
        scene = render_scene(np.random.default_rng(i), (width, height), "easy", len(part))
        y, x = height * (i // sides), width * (i % sides)
        image[y : y + height, x : x + width] = scene.image
        boxes.append(scene.boxes_xywh + np.array((x, y, 0, 0), np.float32))
    return image, np.concatenate(boxes)


if __name__ == "__main__":
    main()
