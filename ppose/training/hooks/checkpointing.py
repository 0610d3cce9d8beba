"""Checkpoints of a run."""

from __future__ import annotations

from ppose.training.hooks.scoring import save_weights
from ppose.training.step import StepReport
from ppose.training.trainer import Hook, Trainer
from ppose.utils.log import log


class CheckpointHook(Hook):
    """Writes a checkpoint every `save_every` epochs, after the evaluation at an epoch's end."""

    def before_train(self, trainer: Trainer) -> None:
        self.every = max(1, round(trainer.experiment.save_every * trainer.data.steps_per_epoch))

    def after_step(self, trainer: Trainer, report: StepReport) -> None:
        step = trainer.state.step
        if step % self.every == 0 and step % trainer.data.steps_per_epoch:
            trainer.save()

    def after_epoch(self, trainer: Trainer) -> None:
        state = trainer.state
        if state.step % self.every == 0 or state.ending or state.step == trainer.data.last_step:
            trainer.save()

    def after_train(self, trainer: Trainer) -> None:
        state = trainer.state
        save_weights(trainer, "last", state.evaluated_weights(), {"step": str(state.step)})
        state.finished = True
        trainer.save()
        best = "not evaluated" if state.best is None else f"best AP {100 * state.best:.1f}"
        log.info(f"done: {best}; weights, log and config are in {trainer.folder}")
