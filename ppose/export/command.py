"""`tools/export.py`: writes a bundle once every backend was seen to find the same."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

from ppose.api import chosen_weights
from ppose.checkpoint import load_weights
from ppose.data.boxes import BoxFile
from ppose.data.images import list_images
from ppose.deploy.bundle import Bundle
from ppose.deploy.model import load
from ppose.deploy.session import BACKENDS, SUFFIXES
from ppose.errors import PposeError
from ppose.estimator import PoseEstimator, Request
from ppose.experiment import Experiment
from ppose.export.bundle import FORMATS, Format, export_bundle
from ppose.export.parity import (
    FLOAT,
    INT8,
    SURE,
    Difference,
    Tolerance,
    difference,
    input_pixels,
    table,
)
from ppose.interrupt import terminable
from ppose.log import log
from ppose.postprocess import Postprocess
from ppose.structures import Poses


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
        tolerance: pixels of the network's input, whatever the scores; None for `FLOAT` or `INT8`.

    Raises:
        ParityError: a backend is above the tolerance, or nothing was found that could be
            compared. An older bundle stays as it was then.
        PposeError: no backend is installed that could be compared.
    """
    folder = Path(output_dir or Path("output") / "inference" / experiment.name)
    requests = _requests(experiment, pictures, bbox_file)
    weights = chosen_weights(experiment)
    load_weights(experiment.model, weights)
    log.info(f"weights: {weights}")

    def check(bundle: Bundle) -> None:
        for path in bundle.files:
            log.info(f"{path.name}: {path.stat().st_size / 1e6:.1f} MB")
        allowed = INT8 if bundle.network.int8 else FLOAT
        if tolerance is not None:
            allowed = replace(allowed, pixels=tolerance, score=1.0)
        rows = _compared(experiment.estimator(), bundle, requests)
        log.info(table(rows, allowed))
        _refuse_wrong(rows, allowed)

    with terminable():
        bundle = export_bundle(
            experiment, folder, formats, peaks=peaks, batch=batch, weights=weights, check=check
        )
    log.info(f"bundle: {folder}")
    return bundle


def _refuse_wrong(rows: Sequence[Difference], tolerance: Tolerance) -> None:
    wrong = [row.backend for row in rows if not tolerance.accepts(row)]
    if wrong:
        raise ParityError(
            f"{', '.join(wrong)}: other joints than the network finds, see the table; nothing was "
            "written. Another version of the backend may be right, --format leaves one out, and "
            "--tolerance says what to accept"
        )
    if not any(row.joints for row in rows):
        raise ParityError(
            f"no joint was scored {SURE:g} or more in the pictures, so nothing could be compared "
            "and nothing was written; give pictures of people: --check, --bbox_file"
        )


def _requests(
    experiment: Experiment, pictures: str | Path, bbox_file: str | Path | None
) -> list[Request]:
    files = list_images(pictures)
    if bbox_file is None or not experiment.crop.uses_boxes:
        return [Request(file) for file in files]
    boxes = BoxFile(bbox_file)
    found = [boxes.of(file) for file in files]
    chosen = [
        Request(file, rows[:, :4], rows[:, 4])
        for file, rows in zip(files, found, strict=True)
        if len(rows)
    ]
    if not chosen:
        raise PposeError(f"{bbox_file} has no box for any of the {len(files)} pictures")
    return chosen


def _compared(
    eager: PoseEstimator, bundle: Bundle, requests: Sequence[Request]
) -> list[Difference]:
    """One row for each installed backend that runs a file of the bundle."""
    expected = _everybody(eager, requests)
    scales = [input_pixels(eager, poses) for poses in expected]
    rows = []
    for backend in BACKENDS:
        if not any(path.suffix in SUFFIXES[backend] for path in bundle.files):
            continue
        if find_spec(backend) is None:
            log.info(f"{backend}: not installed, so not compared")
            continue
        exported = load(bundle.folder, backend=backend)
        rows.append(difference(backend, expected, _everybody(exported, requests), scales))
    if not rows:
        raise PposeError(
            "nothing to compare with: install a backend that runs what is exported, e.g. "
            "pip install onnxruntime"
        )
    return rows


def _everybody(estimator: PoseEstimator, requests: Sequence[Request]) -> list[Poses]:
    """People with those that others hide as duplicates, so that both results have the same."""
    estimator.postprocess = Postprocess(estimator.postprocess.min_joint_score, oks_nms=None)
    return list(estimator.run(requests))
