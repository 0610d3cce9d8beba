"""`metrics.jsonl` of a run."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any, TextIO

from ppose.metrics.coco_metric import CocoScores
from ppose.training.meter import Meter
from ppose.training.step import StepReport
from ppose.training.trainer import Hook, Trainer
from ppose.utils.files import atomic_write, finite

METRICS = "metrics.jsonl"


class MetricsFileHook(Hook):
    """`metrics.jsonl`: a line of means for each logged step, and one for each evaluation.

    Every line has step, epoch (from 1) and kind, which is "train" or "val". What is not a
    number is null. Resuming removes the lines of later steps.
    """

    _file: TextIO | None = None

    def before_train(self, trainer: Trainer) -> None:
        path = trainer.folder / METRICS
        path.parent.mkdir(parents=True, exist_ok=True)
        cut_metrics(path, trainer.state.step)
        self._file = path.open("a", encoding="utf-8")
        self._meter = Meter()

    def after_step(self, trainer: Trainer, report: StepReport) -> None:
        if means := self._meter.logged(report, trainer.is_logged(trainer.state.step)):
            self._write(trainer, "train", means.numbers())

    def after_evaluation(self, trainer: Trainer, scores: CocoScores, what: str) -> None:
        self._write(trainer, "val", {"what": what, **scores.to_dict()})

    def close(self, trainer: Trainer) -> None:
        if self._file:
            self._file.close()

    def _write(self, trainer: Trainer, kind: str, values: dict[str, Any]) -> None:
        assert self._file is not None
        place = {"step": trainer.state.step, "epoch": trainer.epoch_of_step, "kind": kind}
        self._file.write(json.dumps(place | finite(values)) + "\n")
        self._file.flush()


def cut_metrics(path: Path, step: int) -> None:
    """Removes the lines of later steps, and an incomplete last line."""
    if not path.exists():
        return
    lines = path.read_text(encoding="utf-8", errors="replace").splitlines(keepends=True)
    kept = [line for line in lines if _step_of(line) <= step]
    if kept != lines:
        with atomic_write(path) as partial:
            partial.write_text("".join(kept), encoding="utf-8")


def _step_of(line: str) -> float:
    """Of a line of metrics; infinite for what is none."""
    try:
        record = json.loads(line) if line.endswith("\n") else None
    except ValueError:
        record = None
    step = record.get("step") if isinstance(record, dict) else None
    return step if isinstance(step, int) else math.inf
