"""What a run leaves in its folder and prints while it trains."""

from __future__ import annotations

import json
import math
import time
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

from ppose.engine.bar import FiguresBar
from ppose.engine.hooks import Hook
from ppose.engine.meter import Means, Meter
from ppose.engine.provenance import provenance
from ppose.files import finite, whole_file
from ppose.log import log
from ppose.metrics.coco import CocoScores
from ppose.progress import on_terminal

if TYPE_CHECKING:
    from ppose.engine.step import StepReport
    from ppose.engine.trainer import Trainer

TRAIN_LOG = "train.log"
METRICS = "metrics.jsonl"
STARTS = "run.json"


class RunFolder(Hook):
    """Saves the config and how the run was started, and says what is trained on."""

    def before_train(self, trainer: Trainer) -> None:
        run = trainer.experiment
        log.info(f"config: {run.save()}")
        facts = {"from_step": trainer.step, "seed": run.seed, "devices": trainer.devices}
        add_start(trainer.folder / STARTS, provenance() | facts)
        log.info(f"train: {run.train_dataset.summary()}")
        log.info(f"val:   {run.val_dataset.summary()}")
        if trainer.step:
            log.info(f"resumed behind step {trainer.step} of {trainer.last_step}")


def add_start(path: Path, record: dict[str, Any]) -> None:
    """Adds a record to a file that lists all starts; one that is no such list is put aside."""
    starts: Any = []
    if path.exists():
        try:
            starts = json.loads(path.read_text(encoding="utf-8"))
        except ValueError:
            starts = None
        if not isinstance(starts, list):
            aside = path.with_name(f"{path.stem}-{time.time_ns()}{path.suffix}")
            path.rename(aside)
            log.info(f"{path} does not list the starts of a run; it is now {aside}")
            starts = []
    with whole_file(path) as partial:
        partial.write_text(json.dumps([*starts, record], indent=2) + "\n", encoding="utf-8")


class Metrics(Hook):
    """`metrics.jsonl`: a line of means for each logged step, and one for each evaluation.

    Every line has step, epoch (from 1) and kind, which is "train" or "val". What is not a
    number is null. Resuming takes the lines of later steps away.
    """

    _file: TextIO | None = None

    def before_train(self, trainer: Trainer) -> None:
        path = trainer.folder / METRICS
        path.parent.mkdir(parents=True, exist_ok=True)
        cut_metrics(path, trainer.step)
        self._file = path.open("a", encoding="utf-8")
        self._meter = Meter()

    def after_step(self, trainer: Trainer, report: StepReport) -> None:
        if means := self._meter.logged(trainer, report):
            self._write(trainer, "train", means.numbers())

    def after_evaluation(self, trainer: Trainer, scores: CocoScores, what: str) -> None:
        self._write(trainer, "val", {"what": what, **scores.to_dict()})

    def close(self, trainer: Trainer) -> None:
        if self._file:
            self._file.close()

    def _write(self, trainer: Trainer, kind: str, values: dict[str, Any]) -> None:
        assert self._file is not None
        place = {"step": trainer.step, "epoch": _epoch(trainer), "kind": kind}
        self._file.write(json.dumps(place | finite(values)) + "\n")
        self._file.flush()


def cut_metrics(path: Path, step: int) -> None:
    """Takes away lines behind a step, and what a crash left of a line."""
    if not path.exists():
        return
    lines = path.read_text(encoding="utf-8", errors="replace").splitlines(keepends=True)
    kept = [line for line in lines if _step_of(line) <= step]
    if kept != lines:
        with whole_file(path) as partial:
            partial.write_text("".join(kept), encoding="utf-8")


def _step_of(line: str) -> float:
    """Of a line of metrics; infinite for what is none."""
    try:
        record = json.loads(line) if line.endswith("\n") else None
    except ValueError:
        record = None
    step = record.get("step") if isinstance(record, dict) else None
    return step if isinstance(step, int) else math.inf


class Console(Hook):
    """A bar for each epoch on a terminal, else a line every `log_every` steps; both with means.

    A line shows the means since the line before; on a terminal lines go to the log only. The bar
    shows the means of the last `log_every` steps.
    """

    _bar: FiguresBar | None = None

    def before_train(self, trainer: Trainer) -> None:
        self._since_line = Meter()
        self._in_epoch = Meter()
        self._recent = Meter(window=trainer.experiment.log_every)
        self._left = TimeLeft()
        self._replaced = 0
        if on_terminal():
            self._bar = _epoch_bar(trainer, trainer.step)

    def after_step(self, trainer: Trainer, report: StepReport) -> None:
        self._left.stepped(report)
        self._replaced += report.replaced
        self._in_epoch.add(report)
        self._recent.add(report)
        if on_terminal():
            self._update_bar(trainer)
        if means := self._since_line.logged(trainer, report):
            epoch, step = _place(trainer)
            line = f"{epoch}  {step}  {_figures(means)}  ETA {self._eta(trainer)}"
            (log.debug if self._bar else log.info)(line)

    def after_epoch(self, trainer: Trainer) -> None:
        self._close_bar()
        means = self._in_epoch.means()
        spent = _clock(means.seconds * len(self._in_epoch))
        log.info(f"{_place(trainer)[0]}  done in {spent}  {_figures(means)}")
        self._in_epoch.clear()

    def after_evaluation(self, trainer: Trainer, scores: CocoScores, what: str) -> None:
        self._left.evaluated()

    def after_train(self, trainer: Trainer) -> None:
        if self._replaced:
            log.info(f"{self._replaced} samples were replaced, as their pictures could not be read")

    def close(self, trainer: Trainer) -> None:
        self._close_bar()

    def _update_bar(self, trainer: Trainer) -> None:
        self._bar = self._bar or _epoch_bar(trainer, trainer.step - 1)
        means = self._recent.means()
        self._bar.figures = (
            f"loss {means.loss:.6f}  lr {means.lr:.2e}  {_speed(means)}  ETA {self._eta(trainer)}"
        )
        self._bar.update(_step_in_epoch(trainer) - self._bar.n)

    def _close_bar(self) -> None:
        if self._bar:
            self._bar.close()
            self._bar = None

    def _eta(self, trainer: Trainer) -> str:
        return _clock(self._left.seconds(trainer, self._recent.means().seconds))


class TimeLeft:
    """How long the rest of a run takes: its steps, and evaluations once one has been timed."""

    def __init__(self) -> None:
        self._pauses: list[float] = []
        self._last: float | None = None
        self._is_evaluated = False

    def stepped(self, report: StepReport) -> None:
        """A step is over."""
        now = time.perf_counter()
        if self._is_evaluated and self._last is not None:
            # With all that belongs to an evaluation: weights, pictures, a checkpoint.
            self._pauses.append(now - report.seconds - self._last)
        self._last, self._is_evaluated = now, False

    def evaluated(self) -> None:
        """There was an evaluation since the last step."""
        self._is_evaluated = True

    def seconds(self, trainer: Trainer, seconds_per_step: float) -> float:
        """From the end of the trainer's last step to the end of the run."""
        run = trainer.experiment
        complete = (trainer.step - 1) // trainer.steps_per_epoch
        evaluations = -(-run.epochs // run.eval_every) - complete // run.eval_every
        pause = sum(self._pauses) / len(self._pauses) if self._pauses else 0.0
        return seconds_per_step * (trainer.last_step - trainer.step) + pause * evaluations


def _epoch(trainer: Trainer) -> int:
    """Number of the epoch that the last step belongs to, from 1."""
    return (trainer.step - 1) // trainer.steps_per_epoch + 1


def _step_in_epoch(trainer: Trainer) -> int:
    return (trainer.step - 1) % trainer.steps_per_epoch + 1


def _place(trainer: Trainer) -> tuple[str, str]:
    return (
        f"epoch {_epoch(trainer)}/{trainer.experiment.epochs}",
        f"step {_step_in_epoch(trainer)}/{trainer.steps_per_epoch}",
    )


def _epoch_bar(trainer: Trainer, steps_done: int) -> FiguresBar:
    complete, done = divmod(steps_done, trainer.steps_per_epoch)
    label = f"epoch {complete + 1}/{trainer.experiment.epochs}"
    return FiguresBar(trainer.steps_per_epoch, label, done)


def _figures(means: Means) -> str:
    parts = ", ".join(f"{name} {value:.6f}" for name, value in means.losses.items())
    figures = [f"loss {means.loss:.6f}" + (f" ({parts})" if len(means.losses) > 1 else "")]
    figures.append(f"lr {means.lr:.2e}")
    if means.grad_norm is not None:
        figures.append(f"grad {means.grad_norm:.4g}")
    if means.loss_scale is not None:
        figures.append(f"scale {means.loss_scale:g}  overflows {means.skipped}")
    return "  ".join([*figures, f"mem {means.memory_mb:.0f} MB", _speed(means)])


def _speed(means: Means) -> str:
    return f"{means.samples_per_second:.1f} samples/s  data wait {means.data_wait:.0%}"


def _clock(seconds: float) -> str:
    return str(timedelta(seconds=round(seconds)))
