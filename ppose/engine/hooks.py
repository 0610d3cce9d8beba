"""What happens around the steps of training: evaluation, averages, checkpoints, early stop."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np
import paddle

from ppose.engine.average import borrowed
from ppose.engine.evaluate import evaluate
from ppose.engine.norms import renew_norms
from ppose.engine.state import float_arrays
from ppose.log import log
from ppose.metrics.coco import CocoScores
from ppose.slim.quantize import quantized_layers
from ppose.weightfile import save_arrays

if TYPE_CHECKING:
    from ppose.engine.step import StepReport
    from ppose.engine.trainer import Trainer


class Hook:
    """Called around the steps; every method may be left out."""

    def before_train(self, trainer: Trainer) -> None:
        """Once, before the first step."""

    def after_step(self, trainer: Trainer, report: StepReport) -> None:
        """After each optimizer step."""

    def after_epoch(self, trainer: Trainer) -> None:
        """After the last step of each epoch."""

    def after_evaluation(self, trainer: Trainer, scores: CocoScores, what: str) -> None:
        """After each evaluation, on every process, while the network has the weights that were
        scored, which `what` says in words.
        """

    def after_train(self, trainer: Trainer) -> None:
        """Once, after the last step."""

    def close(self, trainer: Trainer) -> None:
        """At the end, however training ended."""


def default_hooks(trainer: Trainer) -> list[Hook]:
    """The usual set; only the main process writes."""
    from ppose.engine.board import Board
    from ppose.engine.logs import Console, Metrics, RunFolder

    run = trainer.experiment
    writers: list[Hook] = [RunFolder(), Console(), Metrics(), Board()] if trainer.is_main else []
    scoring: list[Hook] = [Evaluation()]
    if run.early_stop:
        scoring.append(EarlyStopping())
    if run.swa:
        scoring.append(Averaging())
    # Checkpoints last: they hold what the others found.
    return [*writers, *scoring, *([Saving()] if trainer.is_main else [])]


class Evaluation(Hook):
    """Evaluates every `eval_every` epochs and at the end; keeps the best weights."""

    def after_epoch(self, trainer: Trainer) -> None:
        run = trainer.experiment
        if trainer.epoch % run.eval_every and trainer.epoch != run.epochs:
            return
        trainer.share_statistics()
        what = f"epoch {trainer.epoch}" + (", EMA" if trainer.moving else "")
        score(trainer, trainer.evaluated_weights(), what)


def score(trainer: Trainer, weights: Mapping[str, paddle.Tensor], what: str) -> None:
    """Scores weights of the trainer's network, on all processes; the best so far are kept.

    Args:
        trainer: of the run.
        weights: by name.
        what: is scored, in words.
    """
    run = trainer.experiment
    started = time.perf_counter()
    with borrowed(trainer.network, weights), trainer.precision.evaluating():
        scores = evaluate(run.estimator(), run.val_dataset, run.metric, quiet=not trainer.is_main)
        if trainer.is_main:
            log.info(f"{what}, evaluated in {time.perf_counter() - started:.0f} s")
            log.info(scores.table())
        keep_best(trainer, weights, scores, what)
        for hook in trainer.hooks:
            hook.after_evaluation(trainer, scores, what)


def keep_best(
    trainer: Trainer, weights: Mapping[str, paddle.Tensor], scores: CocoScores, what: str
) -> None:
    """Notes whether the AP is the best so far, and saves the weights if so."""
    ap = 0.0 if np.isnan(scores.ap) else scores.ap
    if trainer.best is not None and ap <= trainer.best:
        trainer.stale += 1
        return
    trainer.best, trainer.stale = ap, 0
    if trainer.is_main:
        save_weights(trainer, "best", weights, {"AP": f"{ap:.4f}", "weights": what})


def save_weights(
    trainer: Trainer, name: str, weights: Mapping[str, paddle.Tensor], facts: dict[str, str]
) -> None:
    """Writes weights of the trainer's network into the run's folder, in float32."""
    save_arrays(
        trainer.folder / f"{name}.safetensors",
        float_arrays(weights),
        facts | {"config": trainer.experiment.name},
    )


class EarlyStopping(Hook):
    """Ends the run behind the epoch in which `EarlyStop` says so."""

    def after_epoch(self, trainer: Trainer) -> None:
        if trainer.experiment.early_stop.ends(trainer.stale) and trainer.step < trainer.last_step:
            trainer.ending = True
            if trainer.is_main:
                log.info(
                    f"stopped early: no better AP in {trainer.stale} evaluations "
                    f"(early_stop.patience={trainer.experiment.early_stop.patience})"
                )


class Averaging(Hook):
    """Stochastic weight averaging, see `SWA`: gathers weights, evaluates and saves their mean."""

    def after_epoch(self, trainer: Trainer) -> None:
        if trainer.experiment.swa.takes(trainer.epoch):
            trainer.share_statistics()
            trainer.average.add(float_arrays(trainer.weights()))

    def after_train(self, trainer: Trainer) -> None:
        average, swa = trainer.average, trainer.experiment.swa
        if not average.count:
            return
        with borrowed(trainer.network, average.mean):
            with trainer.precision.evaluating():
                renew_norms(
                    trainer.network,
                    trainer.further_images(),
                    swa.norm_batches,
                    keep=[*trainer.freezing.norms, *quantized_layers(trainer.network).values()],
                )
            trainer.share_statistics()
            # The statistics are measured; all else may be in half precision there.
            own = trainer.network.state_dict()
            measured = {name: t.clone() for name, t in own.items() if t.stop_gradient}
            mean = {name: paddle.to_tensor(a) for name, a in average.mean.items()} | measured
        if trainer.is_main:
            save_weights(trainer, "swa", mean, {"sets": str(average.count)})
        score(trainer, mean, f"mean of the weights of {average.count} epochs")


class Saving(Hook):
    """Writes a checkpoint every `save_every` epochs, behind the evaluation of an epoch's end."""

    def before_train(self, trainer: Trainer) -> None:
        self.every = max(1, round(trainer.experiment.save_every * trainer.steps_per_epoch))

    def after_step(self, trainer: Trainer, report: StepReport) -> None:
        if trainer.step % self.every == 0 and trainer.step % trainer.steps_per_epoch:
            trainer.save()

    def after_epoch(self, trainer: Trainer) -> None:
        if trainer.step % self.every == 0 or trainer.ending or trainer.step == trainer.last_step:
            trainer.save()

    def after_train(self, trainer: Trainer) -> None:
        save_weights(trainer, "last", trainer.evaluated_weights(), {"step": str(trainer.step)})
        trainer.finished = True
        trainer.save()
        best = "not evaluated" if trainer.best is None else f"best AP {100 * trainer.best:.1f}"
        log.info(f"done: {best}; weights, log and config are in {trainer.folder}")
