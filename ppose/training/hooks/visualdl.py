"""Curves and images of a run for VisualDL."""

from __future__ import annotations

import io
import os
import struct
import time
from collections.abc import Iterator
from contextlib import redirect_stdout
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ppose.evaluation import build_requests
from ppose.metrics.coco_metric import CocoScores
from ppose.structures.visualize import draw_grid, draw_maps
from ppose.training.meter import Meter
from ppose.training.step import StepReport
from ppose.training.trainer import Hook, Trainer
from ppose.utils.files import atomic_write

if TYPE_CHECKING:
    from visualdl import LogWriter

BOARD = "vdl"  # folder of the run's curves
_MAX_INPUTS = 8
_MAX_IMAGES = 12


class VisualDLHook(Hook):
    """Scalars and images in `vdl` of the run's folder.

    The scalars are those of the console's lines, as `train/NAME`, and all scores of evaluations,
    as `val/NAME`. Images are made at the first step and at evaluations only: `train/targets`,
    inputs with the highest of their joints' targets at each place; `train/heatmaps`, what the
    network sees in them; `val/predictions`.
    """

    _writer: LogWriter | None = None

    def before_train(self, trainer: Trainer) -> None:
        self._writer = _writer_from(trainer.folder / BOARD, trainer.state.step)
        self._meter = Meter()
        self._seen: _Seen | None = None

    def after_step(self, trainer: Trainer, report: StepReport) -> None:
        is_first = self._seen is None
        if is_first or trainer.state.step % trainer.data.steps_per_epoch == 0:
            # An evaluation may follow, which shows them.
            self._seen = _Seen.of(report)
        if is_first:
            self._show_targets(trainer)
        if means := self._meter.logged(report, trainer.is_logged(trainer.state.step)):
            self._scalars(trainer, "train", means.numbers())

    def after_evaluation(self, trainer: Trainer, scores: CocoScores, what: str) -> None:
        self._scalars(trainer, "val", scores.numbers())
        self._show_targets(trainer)
        self._show_heatmaps(trainer)
        self._show_predictions(trainer)

    def close(self, trainer: Trainer) -> None:
        if self._writer:
            self._writer.close()

    def _scalars(self, trainer: Trainer, kind: str, scalars: dict[str, float]) -> None:
        """Those that are numbers: the page cannot show others."""
        assert self._writer is not None
        for name, value in scalars.items():
            if np.isfinite(value):
                self._writer.add_scalar(f"{kind}/{name}", value, trainer.state.step)

    def _show(self, trainer: Trainer, tag: str, images: list[np.ndarray]) -> None:
        assert self._writer is not None
        if images:
            self._writer.add_image(tag, draw_grid(images), trainer.state.step)

    def _show_targets(self, trainer: Trainer) -> None:
        if seen := self._seen:
            self._show(trainer, "train/targets", _with_maps(trainer, seen.images, seen.targets))

    def _show_heatmaps(self, trainer: Trainer) -> None:
        if seen := self._seen:
            maps = trainer.experiment.estimator().maps(seen.images)
            self._show(trainer, "train/heatmaps", _with_maps(trainer, seen.images, maps))

    def _show_predictions(self, trainer: Trainer) -> None:
        run = trainer.experiment
        requests = islice(build_requests(run.val_dataset, run.crop.uses_boxes), _MAX_IMAGES)
        kept = (replace(request, keep_image=True) for request in requests)
        found = run.estimator().run(kept, failed=[])
        drawn = [poses.draw(poses.image) for poses in found if poses.image is not None]
        self._show(trainer, "val/predictions", drawn)


@dataclass(frozen=True)
class _Seen:
    """Training inputs (N, H, W, 3) uint8 and their target maps (N, C, h, w)."""

    images: np.ndarray
    targets: np.ndarray

    @classmethod
    def of(cls, report: StepReport) -> _Seen:
        image, target = (report.batch[name][:_MAX_INPUTS].numpy() for name in ("image", "target"))
        return cls(image, target)


def _with_maps(trainer: Trainer, images: np.ndarray, maps: np.ndarray) -> list[np.ndarray]:
    joints = trainer.experiment.codec.joint_channels
    return [draw_maps(image, of_one[joints]) for image, of_one in zip(images, maps, strict=True)]


def _writer_from(folder: Path, step: int) -> LogWriter:
    """A writer that continues after a step of the run.

    VisualDL shows the newest file of a folder only, and cannot take records back: where there are
    some of later steps, those before go into a new file.
    """
    from visualdl import LogWriter

    files = sorted(folder.glob("vdlrecords.*.log"))
    if not files:
        return LogWriter(logdir=str(folder))
    path = files[-1]
    kept = [record for record in records(path) if _step_of(record) <= step]
    content = b"".join(struct.pack("<Q", len(record)) + record for record in kept)
    if len(content) < path.stat().st_size:
        path = folder / f"vdlrecords.{max(int(time.time()), _number(path) + 1):010d}.log"
        with atomic_write(path) as partial:
            partial.write_bytes(content)
        for old in files:
            os.truncate(old, 0)  # a page that is open would fail on a file that is gone
    with redirect_stdout(io.StringIO()):  # it says that the file exists
        return LogWriter(logdir=str(folder), file_name=path.name)


def _number(path: Path) -> int:
    """The time in a file's name, by which VisualDL finds the newest."""
    digits = path.name.split(".")[1]
    return int(digits) if digits.isdigit() else 0


def records(path: Path) -> Iterator[bytes]:
    """The records of a VisualDL file: 8 bytes of length before each; a torn last one is left."""
    data = path.read_bytes()
    at = 0
    while at + 8 <= len(data):
        end = at + 8 + int.from_bytes(data[at : at + 8], "little")
        if end > len(data):
            return
        yield data[at + 8 : end]
        at = end


def _step_of(record: bytes) -> int:
    from visualdl.proto.record_pb2 import Record

    return Record.FromString(record).values[0].id
