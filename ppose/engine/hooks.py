"""What happens around the steps of training: console, VisualDL, evaluation, checkpoints."""

from __future__ import annotations

import time
from datetime import timedelta
from itertools import islice
from typing import TYPE_CHECKING

import numpy as np

from ppose.checkpoint import set_weights
from ppose.data.images import read_image
from ppose.engine.average import renew_norms
from ppose.engine.evaluate import evaluate, requests_of
from ppose.engine.state import network_arrays
from ppose.visualize import draw_grid
from ppose.weightfile import save_arrays

if TYPE_CHECKING:
    from ppose.engine.trainer import StepReport, Trainer

_PICTURES = 12


class Hook:
    """Called around the steps; every method may be left out."""

    def before_train(self, trainer: Trainer) -> None:
        """Once, before the first step."""

    def after_step(self, trainer: Trainer, report: StepReport) -> None:
        """After each optimizer step."""

    def after_epoch(self, trainer: Trainer) -> None:
        """After the last step of each epoch."""

    def after_train(self, trainer: Trainer) -> None:
        """Once, after the last step."""


def default_hooks(trainer: Trainer) -> list[Hook]:
    """The usual set; only the main process writes."""
    evaluation = Evaluation()
    averaging = [Averaging(evaluation)] if trainer.experiment.swa else []
    if not trainer.is_main:
        return [evaluation, *averaging]
    board = Board()
    evaluation.board = board
    return [RunFolder(), Console(), board, evaluation, *averaging, Latest()]


def _is_due(trainer: Trainer) -> bool:
    return trainer.step % trainer.experiment.log_every == 0 or trainer.step == trainer.last_step


class RunFolder(Hook):
    """Saves the config and says what is trained on."""

    def before_train(self, trainer: Trainer) -> None:
        path = trainer.experiment.save()
        print(f"config: {path}")
        print(f"train: {trainer.experiment.train_dataset.summary()}")
        print(f"val:   {trainer.experiment.val_dataset.summary()}")
        if trainer.step:
            print(f"resumed behind step {trainer.step} of {trainer.last_step}")


class Console(Hook):
    """A line every `log_every` steps, with the mean since the last line."""

    def before_train(self, trainer: Trainer) -> None:
        self.reports: list[tuple[float, float, float, int]] = []
        self.losses: list[dict[str, float]] = []
        self.replaced = 0

    def after_step(self, trainer: Trainer, report: StepReport) -> None:
        self.reports.append((report.loss, report.seconds, report.data_seconds, report.samples))
        self.losses.append(report.losses)
        self.replaced += report.replaced
        if not _is_due(trainer):
            return
        loss, seconds, waited, samples = np.array(self.reports).T
        left = timedelta(seconds=round(seconds.mean() * (trainer.last_step - trainer.step)))
        per_epoch = trainer.steps_per_epoch
        parts = self._parts() if len(report.losses) > 1 else ""
        print(
            f"epoch {(trainer.step - 1) // per_epoch + 1}/{trainer.experiment.epochs}  "
            f"step {(trainer.step - 1) % per_epoch + 1}/{per_epoch}  "
            f"loss {loss.mean():.6f}{parts}  lr {report.lr:.2e}  "
            f"{samples.sum() * trainer.devices / seconds.sum():.1f} samples/s  "
            f"data wait {waited.sum() / seconds.sum():.0%}  ETA {left}",
            flush=True,
        )
        self.reports, self.losses = [], []

    def after_train(self, trainer: Trainer) -> None:
        if self.replaced:
            print(f"{self.replaced} samples were replaced, as their pictures could not be read")

    def _parts(self) -> str:
        means = {k: np.mean([losses[k] for losses in self.losses]) for k in self.losses[0]}
        return " (" + ", ".join(f"{name} {mean:.6f}" for name, mean in means.items()) + ")"


class Board(Hook):
    """Scalars and pictures for VisualDL, in `vdl` of the run's folder."""

    def before_train(self, trainer: Trainer) -> None:
        from visualdl import LogWriter

        self.writer = LogWriter(logdir=str(trainer.folder / "vdl"))

    def after_step(self, trainer: Trainer, report: StepReport) -> None:
        if not _is_due(trainer):
            return
        self._scalars(
            trainer,
            {f"train/loss/{name}": value for name, value in report.losses.items()}
            | {
                "train/loss": report.loss,
                "train/lr": report.lr,
                "train/samples_per_second": report.samples * trainer.devices / report.seconds,
                "train/data_wait": report.data_seconds / report.seconds,
            },
        )

    def evaluated(
        self, trainer: Trainer, scores: dict[str, float], pictures: list[np.ndarray]
    ) -> None:
        """Scores, and pictures of predictions on one sheet, after an evaluation."""
        self._scalars(trainer, {f"val/{name}": value for name, value in scores.items()})
        if pictures:
            self.writer.add_image("val/predictions", draw_grid(pictures), trainer.step)
        self.writer.flush()

    def after_train(self, trainer: Trainer) -> None:
        self.writer.close()

    def _scalars(self, trainer: Trainer, scalars: dict[str, float]) -> None:
        for tag, value in scalars.items():
            self.writer.add_scalar(tag, value, trainer.step)


class Evaluation(Hook):
    """Evaluates every `eval_every` epochs and at the end; keeps the best weights."""

    board: Board | None = None

    def after_epoch(self, trainer: Trainer) -> None:
        run = trainer.experiment
        if trainer.epoch % run.eval_every == 0 or trainer.epoch == run.epochs:
            trainer.share_statistics()
            self.evaluate(trainer, f"epoch {trainer.epoch}")

    def evaluate(self, trainer: Trainer, what: str) -> None:
        """Scores the network as it is, on all processes; the best weights so far are kept.

        Args:
            trainer: whose network.
            what: is scored, in words.
        """
        run = trainer.experiment
        started = time.perf_counter()
        scores = evaluate(run.estimator(), run.val_dataset, run.metric, quiet=not trainer.is_main)
        if not trainer.is_main:
            return
        print(f"{what}, evaluated in {time.perf_counter() - started:.0f} s")
        print(scores.table(), flush=True)
        ap = 0.0 if np.isnan(scores.ap) else scores.ap
        if trainer.best is None or ap > trainer.best:
            trainer.best = ap
            save_arrays(
                trainer.folder / "best.safetensors",
                network_arrays(trainer.network),
                {"AP": f"{ap:.4f}", "weights": what, "config": run.name},
            )
        if self.board:
            self.board.evaluated(trainer, scores.numbers(), self._pictures(trainer))

    def _pictures(self, trainer: Trainer) -> list[np.ndarray]:
        run = trainer.experiment
        requests = islice(requests_of(run.val_dataset, run.crop.uses_boxes), _PICTURES)
        found = run.estimator().run(requests, failed=[])
        return [poses.draw(read_image(poses.file)) for poses in found if poses.file]


class Averaging(Hook):
    """Stochastic weight averaging, see `SWA`: gathers weights, evaluates and saves their mean."""

    def __init__(self, evaluation: Evaluation):
        self.evaluation = evaluation

    def after_epoch(self, trainer: Trainer) -> None:
        if trainer.experiment.swa.takes(trainer.epoch):
            trainer.share_statistics()
            trainer.average.add(network_arrays(trainer.network))

    def after_train(self, trainer: Trainer) -> None:
        average = trainer.average
        self.evaluation.board = None  # it is closed by now
        own = network_arrays(trainer.network)
        set_weights(trainer.network, average.mean)
        renew_norms(trainer.network, trainer.further_images(), trainer.experiment.swa.norm_batches)
        trainer.share_statistics()
        if trainer.is_main:
            save_arrays(
                trainer.folder / "swa.safetensors",
                network_arrays(trainer.network),
                {"sets": str(average.count), "config": trainer.experiment.name},
            )
        self.evaluation.evaluate(trainer, f"mean of the weights of {average.count} epochs")
        set_weights(trainer.network, own)


class Latest(Hook):
    """Saves `latest` after each epoch, behind the evaluation."""

    def after_epoch(self, trainer: Trainer) -> None:
        trainer.save()

    def after_train(self, trainer: Trainer) -> None:
        trainer.save()  # the mean of SWA may have become the best
        best = "not evaluated" if trainer.best is None else f"best AP {100 * trainer.best:.1f}"
        print(f"done: {best}; weights, log and config are in {trainer.folder}")
