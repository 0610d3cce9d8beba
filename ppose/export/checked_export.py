"""Export with a parity check: the bundle is kept only if all backends match the network."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

from ppose.data.boxes import BoxFile
from ppose.data.images import list_images
from ppose.deploy.backends.model_files import SUFFIXES
from ppose.deploy.backends.settings import BACKENDS
from ppose.deploy.bundle import Bundle
from ppose.deploy.session_runner import load_estimator
from ppose.experiment import Experiment
from ppose.export.parity import (
    FLOAT,
    INT8,
    MIN_SCORE,
    Difference,
    Tolerance,
    difference,
    format_table,
    input_pixels,
)
from ppose.export.write_bundle import FORMATS, Format, export_bundle
from ppose.inference.estimator import PoseEstimator
from ppose.inference.postprocess import Postprocess
from ppose.inference.request import Request
from ppose.structures import Poses
from ppose.utils.errors import PposeError
from ppose.utils.interrupt import sigterm_as_interrupt
from ppose.utils.log import log


class ParityError(PposeError):
    """An exported network does not match the original network."""


def export_checked(
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
    """Exports an experiment and compares all installed backends with the original network.

    Args:
        experiment: the exported weights are those of `Experiment.chosen_weights`.
        output_dir: None for `output/inference/NAME`.
        formats, peaks, batch: see `export_bundle`.
        pictures: an image, folder or glob pattern, to compare on.
        bbox_file: boxes of people in the images, for top-down networks; see `BoxFile`.
        tolerance: pixels of the network's input, with any difference of scores; None for `FLOAT`
            or `INT8`.

    Raises:
        ParityError: a backend exceeds the tolerance, or no joints were found to compare. An
            existing bundle is not changed.
        PposeError: no backend is installed that could be compared.
    """
    folder = Path(output_dir or Path("output") / "inference" / experiment.name)
    requests = _requests(experiment, pictures, bbox_file)
    weights = experiment.load_weights()
    log.info(f"weights: {weights}")

    def check(bundle: Bundle) -> None:
        for path in bundle.files:
            log.info(f"{path.name}: {path.stat().st_size / 1e6:.1f} MB")
        allowed = INT8 if bundle.network.int8 else FLOAT
        if tolerance is not None:
            allowed = replace(allowed, pixels=tolerance, score=1.0)
        rows = _compare(experiment.estimator(), bundle, requests)
        log.info(format_table(rows, allowed))
        _check_rows(rows, allowed)

    with sigterm_as_interrupt():
        bundle = export_bundle(
            experiment, folder, formats, peaks=peaks, batch=batch, weights=weights, check=check
        )
    log.info(f"bundle: {folder}")
    return bundle


def _check_rows(rows: Sequence[Difference], tolerance: Tolerance) -> None:
    wrong = [row.backend for row in rows if not tolerance.accepts(row)]
    if wrong:
        raise ParityError(
            f"{', '.join(wrong)}: other joints than the network finds, see the table; nothing was "
            "written. Try another version of the backend, omit a format with --format, or set "
            "--tolerance"
        )
    if not any(row.joints for row in rows):
        raise ParityError(
            f"no joint was scored {MIN_SCORE:g} or more in the images, so nothing could be "
            "compared and nothing was written; use images of people: --check, --bbox_file"
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
        raise PposeError(f"{bbox_file} has no box for any of the {len(files)} images")
    return chosen


def _compare(eager: PoseEstimator, bundle: Bundle, requests: Sequence[Request]) -> list[Difference]:
    """One row for each installed backend that supports a format of the bundle."""
    expected = _all_poses(eager, requests)
    scales = [input_pixels(eager, poses) for poses in expected]
    rows = []
    for backend in BACKENDS:
        if not any(path.suffix in SUFFIXES[backend] for path in bundle.files):
            continue
        if find_spec(backend) is None:
            log.info(f"{backend}: not installed, so not compared")
            continue
        exported = load_estimator(bundle.folder, backend=backend)
        rows.append(difference(backend, expected, _all_poses(exported, requests), scales))
    if not rows:
        raise PposeError(
            "no backend to compare with: install one that supports the exported formats, e.g. "
            "pip install onnxruntime"
        )
    return rows


def _all_poses(estimator: PoseEstimator, requests: Sequence[Request]) -> list[Poses]:
    """The poses without OKS-NMS, which could suppress different duplicates in the two results."""
    estimator.postprocess = Postprocess(estimator.postprocess.min_joint_score, oks_nms=None)
    return list(estimator.run(requests))
