"""`tools/export.py`: writes a bundle once every backend was seen to find the same."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

import numpy as np

from ppose.api import chosen_weights
from ppose.checkpoint import load_weights
from ppose.data.boxes import BoxFile
from ppose.data.images import list_images, read_image
from ppose.deploy.bundle import DESCRIPTION, Bundle
from ppose.deploy.model import load
from ppose.errors import PposeError
from ppose.estimator import PoseEstimator, Request
from ppose.experiment import Experiment
from ppose.export.bundle import FORMATS, Format, export_bundle, remove_other_formats
from ppose.export.parity import Difference, difference, input_pixels, table
from ppose.log import log

# Of the largest distance of float networks, and of the mean distance of int8 ones, whose eager
# original rounds in another order.
TOLERANCE, INT8_TOLERANCE = 0.05, 1.0
_BACKENDS: dict[Format, dict[str, str]] = {
    "paddle": {"paddle": "paddle"},
    "onnx": {"onnxruntime": "onnxruntime", "openvino": "openvino"},
}


class ParityError(PposeError):
    """An exported network does not find what the network finds."""


def export(
    experiment: Experiment,
    output_dir: str | Path | None = None,
    formats: Sequence[Format] = FORMATS,
    *,
    peaks: bool = False,
    batch: int | None = None,
    pictures: str | Path,
    bbox_file: str | Path | None = None,
    tolerance: float | None = None,
) -> Bundle:
    """Exports the weights of an experiment and compares every installed backend with them.

    Args:
        experiment: see `load_chosen` for which weights it takes.
        output_dir: None for `output/inference/NAME`.
        formats, peaks, batch: see `export_bundle`.
        pictures: a picture, folder or pattern to compare on.
        bbox_file: boxes of people in them, for top-down networks; see `BoxFile`.
        tolerance: pixels of the network's input; None for `TOLERANCE` or `INT8_TOLERANCE`.

    Raises:
        ParityError: a backend is above the tolerance. An older bundle stays as it was then.
        PposeError: no backend is installed that could be compared.
    """
    folder = Path(output_dir or Path("output") / "inference" / experiment.name)
    weights = chosen_weights(experiment)
    load_weights(experiment.model, weights)
    log.info(f"weights: {weights}")
    requests = _requests(experiment, pictures, bbox_file)
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{folder.name}.", dir=folder.parent) as made:
        bundle = export_bundle(experiment, made, formats, peaks=peaks, batch=batch, weights=weights)
        for name in (n for names in bundle.network.files.values() for n in names):
            log.info(f"{name}: {(bundle.folder / name).stat().st_size / 1e6:.1f} MB")
        rows = _compared(experiment.estimator(), bundle, requests)
        exact = bundle.network.int8 == 0
        if tolerance is None:
            tolerance = TOLERANCE if exact else INT8_TOLERANCE
        log.info(table(rows, tolerance, "largest" if exact else "mean"))
        wrong = [r for r in rows if (r.largest if exact else r.mean) > tolerance]
        if wrong:
            raise ParityError(
                f"{', '.join(r.backend for r in wrong)}: other joints than the network finds, "
                "see the table; nothing was written. Another version of the backend may be right, "
                "--format leaves one out, and --tolerance says what to accept"
            )
        _move(bundle, folder)
    log.info(f"bundle: {folder}")
    return Bundle(folder)


def _requests(
    experiment: Experiment, pictures: str | Path, bbox_file: str | Path | None
) -> list[Request]:
    files = list_images(pictures)
    requests = [Request(read_image(file), file=file) for file in files]
    if bbox_file is None or not experiment.crop.uses_boxes:
        return requests
    boxes = BoxFile(bbox_file)
    found = [boxes.of(file) for file in files]
    chosen = [
        replace(request, boxes_xywh=rows[:, :4], box_scores=rows[:, 4])
        for request, rows in zip(requests, found, strict=True)
        if len(rows)
    ]
    if not chosen:
        raise PposeError(f"{bbox_file} has no box for any of the {len(files)} pictures")
    return chosen


def _compared(
    eager: PoseEstimator, bundle: Bundle, requests: Sequence[Request]
) -> list[Difference]:
    """One row for each installed backend that runs a format of the bundle."""
    # Every person stays, so that those of both results belong together.
    eager.postprocess.oks_nms = None
    expected = list(eager.run(requests))
    scales = [
        np.broadcast_to(of_boxes, len(poses)) if len(of_boxes) == 1 else of_boxes
        for of_boxes, poses in zip(input_pixels(eager, requests), expected, strict=True)
    ]
    rows = []
    for form in bundle.network.files:
        for backend, package in _BACKENDS[form].items():  # type: ignore[index]
            if find_spec(package) is None:
                log.info(f"{backend}: not installed, so not compared")
                continue
            exported = load(bundle.folder, backend=backend)
            exported.postprocess.oks_nms = None
            rows.append(difference(backend, expected, list(exported.run(requests)), scales))
    if not rows:
        raise PposeError(
            "nothing to compare with: install a backend that runs what is exported, e.g. "
            "pip install onnxruntime"
        )
    return rows


def _move(bundle: Bundle, folder: Path) -> None:
    """Puts the files into the folder, `pose.yml` last; formats that it does not name go."""
    folder.mkdir(parents=True, exist_ok=True)
    names = [name for files in bundle.network.files.values() for name in files]
    for name in [*names, DESCRIPTION]:
        (bundle.folder / name).replace(folder / name)
    remove_other_formats(folder, names)
