"""The training loop: fetch, step, report. Hooks do the rest."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import closing
from pathlib import Path

import numpy as np

from ppose.compression.quantize import update_scales
from ppose.experiment import Experiment
from ppose.metrics.coco_metric import CocoScores
from ppose.training.checkpoints import Checkpoints
from ppose.training.data import TrainingData
from ppose.training.run_identity import run_facts
from ppose.training.state import TrainState
from ppose.training.step import Batch, DivergedError, Stepper, StepReport
from ppose.utils import distributed
from ppose.utils.interrupt import StopRequest
from ppose.utils.log import log


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
        scored; `what` describes them.
        """

    def after_train(self, trainer: Trainer) -> None:
        """Once, after the last step."""

    def close(self, trainer: Trainer) -> None:
        """At the end, however training ended."""


class Trainer:
    """Trains the network of a prepared state, to the end of its run.

    `ppose.training.setup.prepare` makes one.

    Args:
        experiment: what is trained and how.
        state: of the run; changes with every step.
        data: batches of each step.
        hooks: called around the steps, in this order.

    Attributes:
        folder: of the run.
        checkpoints: its saved states.
        stop: notes signals of this process.
    """

    def __init__(
        self,
        experiment: Experiment,
        state: TrainState,
        data: TrainingData,
        hooks: Sequence[Hook] = (),
    ):
        self.experiment = experiment
        self.state = state
        self.data = data
        self.hooks = list(hooks)
        self.folder = Path(experiment.output_dir)
        self.checkpoints = Checkpoints.of_run(self.folder, experiment.keep_checkpoints)
        self.stop = StopRequest()
        self._stepper = Stepper(experiment, state, data.sampler)

    @property
    def epoch(self) -> int:
        """Epochs completed."""
        return self.state.step // self.data.steps_per_epoch

    @property
    def epoch_of_step(self) -> int:
        """Number of the epoch that the last step belongs to, from 1."""
        return (self.state.step - 1) // self.data.steps_per_epoch + 1

    @property
    def step_in_epoch(self) -> int:
        """Number of the last step in its epoch, from 1."""
        return (self.state.step - 1) % self.data.steps_per_epoch + 1

    @property
    def is_trained(self) -> bool:
        """Whether no step is left: all epochs are done, or the run stopped early."""
        early = self.experiment.early_stop
        return self.state.step >= self.data.last_step or (
            early is not None and early.ends(self.state.stale)
        )

    @property
    def is_over(self) -> bool:
        """Whether nothing is left to do."""
        return self.is_trained and self.state.finished

    @property
    def is_main(self) -> bool:
        """Whether this process is the one that writes."""
        return self.data.is_main

    def is_logged(self, step: int) -> bool:
        """Whether a step is one to report."""
        return step % self.experiment.log_every == 0 or step == self.data.last_step

    def train(self) -> None:
        """Runs all remaining steps.

        Raises:
            KeyboardInterrupt: Ctrl-C or SIGTERM came, whose number it holds; the state is saved.
            DivergedError: see `run_step`.
        """
        try:
            for hook in self.hooks:
                hook.before_train(self)
            with self.stop:
                self._run_steps()
            for hook in self.hooks:
                hook.after_train(self)
        finally:
            for hook in self.hooks:
                hook.close(self)

    def _run_steps(self) -> None:
        if self.is_trained:
            return
        with closing(self.data.batches(self.state.step)) as batches:
            for batch, waited in batches:
                report = self.run_step(batch, waited)
                for hook in self.hooks:
                    hook.after_step(self, report)
                if self.state.step % self.data.steps_per_epoch == 0:
                    for hook in self.hooks:
                        hook.after_epoch(self)
                # Several processes have to stop after the same step.
                if report.stopping or (self.data.sampler.devices == 1 and self.stop.requested):
                    self._save_and_stop()
                if self.state.ending:
                    return

    def run_step(self, batches: Sequence[Batch], waited: float = 0.0) -> StepReport:
        """One optimizer step.

        Args:
            batches: what `TrainingSet` gives, stacked; the gradients of all are added up.
            waited: seconds that they took to arrive.

        Raises:
            DivergedError: a loss is not finite; the trained weights are as they were.
        """
        state = self.state
        logged = self.is_logged(state.step + 1)
        lr, stop = self._learning_rate(), self.stop.requested
        report = self._stepper.run(batches, state.step, lr, waited, with_norm=logged, stop=stop)
        state.step += 1
        state.finished = False
        if self.experiment.quantize:
            update_scales(state.network)
        if self.experiment.ema and state.ema and not report.skipped:
            state.ema.update(state.weights(), self.experiment.ema.decay_at(state.step))
        return report

    def _learning_rate(self) -> float:
        run, step = self.experiment, self.state.step
        batch = run.batch_size * self.data.sampler.devices * run.accumulate
        scale = run.optimizer.batch_factor(batch)
        if run.swa and (rate := run.swa.learning_rate(self.epoch)) is not None:
            return scale * rate
        factor = run.schedule.factor(step, self.data.steps_per_epoch, run.epochs)
        return scale * run.optimizer.lr * factor

    def _save_and_stop(self) -> None:
        if self.is_main:
            step = self.state.step
            if step not in self.checkpoints.steps:
                self.save()
            log.info(
                f"saved at step {step} of {self.data.last_step}: --resume continues from there"
            )
        # A launcher that sees one process end stops the others.
        distributed.barrier()
        raise KeyboardInterrupt(self.stop.number)

    def save(self) -> None:
        """Writes a checkpoint: everything that resuming needs.

        Raises:
            DivergedError: the weights are not finite; the checkpoints before stay.
            CheckpointError: see `Checkpoints.save`.
        """
        step, arrays = self.state.step, self.state.arrays()
        for name, array in arrays.items():
            if not np.isfinite(array).all():
                raise DivergedError(
                    f"step {step}: '{name}' is no longer finite, so this state is not saved; "
                    f"the newest checkpoint is of step {max(self.checkpoints.steps, default='-')}"
                )
        facts = self.state.facts() | run_facts(self.experiment, self.data)
        self.checkpoints.save(step, arrays, facts)
