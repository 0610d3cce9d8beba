"""Progress of a run on the console."""

from __future__ import annotations

import time
from datetime import timedelta
from typing import Any

from tqdm import tqdm

from ppose.metrics.coco_metric import CocoScores
from ppose.training.meter import Means, Meter
from ppose.training.step import StepReport
from ppose.training.trainer import Hook, Trainer
from ppose.utils.log import log
from ppose.utils.progress import on_terminal


class ConsoleHook(Hook):
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
            self._bar = _epoch_bar(trainer, trainer.state.step)

    def after_step(self, trainer: Trainer, report: StepReport) -> None:
        self._left.stepped(report)
        self._replaced += report.replaced
        self._in_epoch.add(report)
        self._recent.add(report)
        if on_terminal():
            self._update_bar(trainer)
        if means := self._since_line.logged(report, trainer.is_logged(trainer.state.step)):
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
            log.info(f"{self._replaced} samples were replaced: their images could not be read")

    def close(self, trainer: Trainer) -> None:
        self._close_bar()

    def _update_bar(self, trainer: Trainer) -> None:
        self._bar = self._bar or _epoch_bar(trainer, trainer.state.step - 1)
        means = self._recent.means()
        self._bar.figures = (
            f"loss {means.loss:.6f}  lr {means.lr:.2e}  {_speed(means)}  ETA {self._eta(trainer)}"
        )
        self._bar.update(trainer.step_in_epoch - self._bar.n)

    def _close_bar(self) -> None:
        if self._bar:
            self._bar.close()
            self._bar = None

    def _eta(self, trainer: Trainer) -> str:
        return _clock(self._left.seconds(trainer, self._recent.means().seconds))


class TimeLeft:
    """Remaining time of a run: its steps, and evaluations once one has been timed."""

    def __init__(self) -> None:
        self._pauses: list[float] = []
        self._last: float | None = None
        self._is_evaluated = False

    def stepped(self, report: StepReport) -> None:
        """A step is over."""
        now = time.perf_counter()
        if self._is_evaluated and self._last is not None:
            # Including what belongs to an evaluation: weights, images, a checkpoint.
            self._pauses.append(now - report.seconds - self._last)
        self._last, self._is_evaluated = now, False

    def evaluated(self) -> None:
        """There was an evaluation since the last step."""
        self._is_evaluated = True

    def seconds(self, trainer: Trainer, seconds_per_step: float) -> float:
        """From the end of the trainer's last step to the end of the run."""
        run = trainer.experiment
        complete = (trainer.state.step - 1) // trainer.data.steps_per_epoch
        evaluations = -(-run.epochs // run.eval_every) - complete // run.eval_every
        pause = sum(self._pauses) / len(self._pauses) if self._pauses else 0.0
        return (
            seconds_per_step * (trainer.data.last_step - trainer.state.step) + pause * evaluations
        )


def _place(trainer: Trainer) -> tuple[str, str]:
    return (
        f"epoch {trainer.epoch_of_step}/{trainer.experiment.epochs}",
        f"step {trainer.step_in_epoch}/{trainer.data.steps_per_epoch}",
    )


def _epoch_bar(trainer: Trainer, steps_done: int) -> FiguresBar:
    complete, done = divmod(steps_done, trainer.data.steps_per_epoch)
    label = f"epoch {complete + 1}/{trainer.experiment.epochs}"
    return FiguresBar(trainer.data.steps_per_epoch, label, done)


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


class FiguresBar(tqdm):
    """A bar for a terminal with a text after it, which goes when closed.

    Args:
        total: of all steps.
        label: text before the bar.
        done: steps before this process.

    Attributes:
        figures: the text; shown with the next `update`.
    """

    figures = ""

    def __init__(self, total: int, label: str, done: int = 0):
        super().__init__(
            total=total,
            desc=label,
            initial=done,
            leave=False,
            miniters=1,
            dynamic_ncols=True,
            bar_format="{desc} {n_fmt}/{total_fmt} |{bar:10}| {figures}",
        )

    @property
    def format_dict(self) -> Any:
        return {**super().format_dict, "figures": self.figures}
