"""The training loop: fetch, step, report. Hooks do the rest."""

from __future__ import annotations

import time
from collections.abc import Generator, Iterator, Sequence
from contextlib import closing, nullcontext
from copy import copy
from itertools import islice
from pathlib import Path

import numpy as np
import paddle

from ppose.checkpoint import load_pretrained
from ppose.data.loader import EpochSampler, TrainingSet, training_loader
from ppose.engine import parallel
from ppose.engine.amp import Precision, masters, on_gpu
from ppose.engine.average import WeightAverage
from ppose.engine.checkpoints import Checkpoints
from ppose.engine.determinism import compute_reproducibly
from ppose.engine.ema import MovingAverage
from ppose.engine.freezing import Freezing
from ppose.engine.hooks import Hook, default_hooks
from ppose.engine.logs import TRAIN_LOG
from ppose.engine.norms import renew_norms, synchronise_norms
from ppose.engine.state import arrays_of, facts_of, restore
from ppose.engine.step import Batch, DivergedError, Stepper, StepReport
from ppose.errors import PposeError
from ppose.experiment import Experiment
from ppose.interrupt import StopRequest
from ppose.log import kept_in, log
from ppose.registry import ConfigError
from ppose.slim.calibrate import calibrate
from ppose.slim.distill import Distillation
from ppose.slim.quantize import is_quantized, quantized_layers, settle_scales

STATES = "checkpoints"  # folder of the run's states


class Trainer:
    """Trains the experiment's network.

    Args:
        experiment: what to train, on what, and how.
        resume: go on from the newest checkpoint of the run's folder.
        hooks: what happens around the steps; None for the usual set.

    Attributes:
        step: optimizer steps done, over the whole run.
        best: best AP so far, None before the first evaluation.
        stale: evaluations since the best one.
        distillation: the network's teacher and what is compared, or None.
        average: weights gathered by SWA.
        moving: the average of EMA, or None.
        ending: set by a hook to end the run behind this epoch.
        finished: all that follows the last step is done too.
        stop: notes signals of this process.
    """

    def __init__(
        self, experiment: Experiment, resume: bool = False, hooks: list[Hook] | None = None
    ):
        if experiment.deterministic:
            compute_reproducibly()
        # Before anything of the experiment is built: the network's first weights are drawn then.
        paddle.seed(experiment.seed)
        experiment.check_fit()
        self.experiment = experiment
        self.rank = paddle.distributed.get_rank()
        self.devices = paddle.distributed.get_world_size()
        self.folder = Path(experiment.output_dir)
        self.checkpoints = Checkpoints(self.folder / STATES, experiment.keep_checkpoints)
        self.dataset = experiment.training_set()
        self.sampler = EpochSampler(
            samples=len(self.dataset),
            batch_size=experiment.batch_size,
            epochs=experiment.epochs,
            seed=experiment.seed,
            rank=self.rank,
            devices=self.devices,
            accumulate=experiment.accumulate,
            repeat_first=experiment.overfit_batch,
        )
        self.precision = Precision(experiment.amp, experiment.amp_level)
        self.network = experiment.model
        if not resume:
            self._start_weights()
        if experiment.sync_batch_norm and self.devices > 1:
            self._synchronise_norms()
        # Behind the synchronised norms, which are other layers.
        norms = experiment.quantize is not None and experiment.quantize.freeze_norms
        self.freezing = Freezing(self.network, experiment.freeze, norms)
        self.distillation = self._distillation()
        self.optimizer = experiment.optimizer.create(self.trained())
        self.precision.prepare(self.network, self.optimizer)
        self.step = 0
        self.best: float | None = None
        self.stale = 0
        self.ending = False
        self.finished = False
        self.stop = StopRequest()
        self.average = WeightAverage()
        self.moving = MovingAverage(self.weights()) if experiment.ema else None
        if resume:
            self._resume()
        self.stepper = Stepper(
            *(experiment, self.optimizer, self.precision, self.freezing, self.sampler),
            distillation=self.distillation,
        )
        self.hooks = default_hooks(self) if hooks is None else hooks

    @property
    def steps_per_epoch(self) -> int:
        """Optimizer steps of one pass over the data."""
        return self.sampler.steps_per_epoch

    @property
    def epoch(self) -> int:
        """Epochs completed."""
        return self.step // self.steps_per_epoch

    @property
    def last_step(self) -> int:
        """Steps of the whole run."""
        return self.steps_per_epoch * self.experiment.epochs

    @property
    def is_trained(self) -> bool:
        """Whether no step is left: all epochs are done, or it stopped early."""
        early = self.experiment.early_stop
        return self.step >= self.last_step or (early is not None and early.ends(self.stale))

    @property
    def is_over(self) -> bool:
        """Whether nothing is left to do."""
        return self.is_trained and self.finished

    @property
    def is_main(self) -> bool:
        """Whether this process is the one that writes."""
        return self.rank == 0

    def is_logged(self, step: int) -> bool:
        """Whether a step is one to report."""
        return step % self.experiment.log_every == 0 or step == self.last_step

    def train(self) -> None:
        """Runs all remaining steps.

        Raises:
            KeyboardInterrupt: Ctrl-C or SIGTERM came, whose number it holds; the state is saved.
            DivergedError: see `run_step`.
        """
        try:
            for hook in self.hooks:
                hook.before_train(self)
            with self.stop, closing(self.batches()) as batches:
                for batch, waited in () if self.is_trained else batches:
                    self.finished = False
                    report = self.run_step(batch, waited)
                    for hook in self.hooks:
                        hook.after_step(self, report)
                    if self.step % self.steps_per_epoch == 0:
                        for hook in self.hooks:
                            hook.after_epoch(self)
                    # Several processes have to stop behind the same step.
                    if report.stopping or (self.devices == 1 and self.stop.requested):
                        self._save_and_stop()
                    if self.ending:
                        break
            for hook in self.hooks:
                hook.after_train(self)
        finally:
            for hook in self.hooks:
                hook.close(self)

    def _save_and_stop(self) -> None:
        if self.is_main:
            if self.step not in self.checkpoints.steps:
                self.save()
            log.info(f"saved at step {self.step} of {self.last_step}: --resume goes on from there")
        # A launcher that sees one process end stops the others.
        parallel.barrier()
        raise KeyboardInterrupt(self.stop.number)

    def run_step(self, batches: Sequence[Batch], waited: float = 0.0) -> StepReport:
        """One optimizer step.

        Args:
            batches: what `TrainingSet` gives, stacked; the gradients of all are added up.
            waited: seconds that they took to arrive.

        Raises:
            DivergedError: a loss is not finite; the trained weights are as they were.
        """
        logged = self.is_logged(self.step + 1)
        lr, stop = self._learning_rate(), self.stop.requested
        report = self.stepper.run(batches, self.step, lr, waited, with_norm=logged, stop=stop)
        self.step += 1
        if self.experiment.quantize:
            settle_scales(self.network)
        if self.moving and not report.skipped:
            self.moving.update(self.weights(), self.experiment.ema.decay_at(self.step))
        return report

    def _learning_rate(self) -> float:
        run = self.experiment
        batch = run.batch_size * self.devices * run.accumulate
        scale = run.optimizer.batch_factor(batch)
        if run.swa and (rate := run.swa.learning_rate(self.epoch)) is not None:
            return scale * rate
        factor = run.schedule.factor(self.step, self.steps_per_epoch, run.epochs)
        return scale * run.optimizer.lr * factor

    def trained(self) -> dict[str, paddle.Tensor]:
        """What the optimizer moves, by name: the network's parameters and the adapters'."""
        adapters = self.distillation.trained if self.distillation else {}
        return dict(self.network.named_parameters()) | adapters

    def weights(self) -> dict[str, paddle.Tensor]:
        """The trained weights by name, in float32 where the optimizer keeps such."""
        return masters(self.network, self.optimizer)

    def evaluated_weights(self) -> dict[str, paddle.Tensor]:
        """The weights that are scored and kept: those of EMA if there is one."""
        return self.moving.mean if self.moving else self.weights()

    def batches(self) -> Generator[tuple[list[Batch], float], None, None]:
        """The batches of each step to the end of the run, with the seconds waited for them."""
        loader = training_loader(self.dataset, self.sampler, self.experiment.workers)
        with closing(loader):
            started = time.perf_counter()
            while step := list(islice(loader, self.experiment.accumulate)):
                yield step, time.perf_counter() - started
                started = time.perf_counter()

    def further_images(self) -> Iterator[paddle.Tensor]:
        """Normalised training inputs of the epoch that would come next."""
        return self._images_from(self.last_step, self.dataset)

    def plain_images(self) -> Iterator[paddle.Tensor]:
        """Normalised inputs of the first epoch as they are without augmentation."""
        return self._images_from(0, self.experiment.training_set(augmented=False))

    def _images_from(self, step: int, dataset: TrainingSet) -> Iterator[paddle.Tensor]:
        """Normalised inputs of the epoch that begins at a step."""
        run = self.experiment
        sampler = copy(self.sampler)
        sampler.first_step = step
        sampler.epochs = step // self.steps_per_epoch + 1
        with closing(training_loader(dataset, sampler, run.workers)) as loader:
            for batch in loader:
                yield run.normalize(batch["image"])

    def share_statistics(self) -> None:
        """Gives all processes the batch-norm statistics of the first, which are the saved ones."""
        own = self.network.state_dict()
        names = [name for name, tensor in own.items() if tensor.stop_gradient]
        parallel.share([own[name] for name in names])
        if self.moving:
            parallel.share([self.moving.mean[name] for name in names])

    def save(self) -> None:
        """Writes a checkpoint: everything that going on needs.

        Raises:
            DivergedError: the weights are not finite; the checkpoints before stay.
            CheckpointError: see `Checkpoints.save`.
        """
        arrays = arrays_of(self)
        for name, array in arrays.items():
            if not np.isfinite(array).all():
                raise DivergedError(
                    f"step {self.step}: '{name}' is no longer finite, so this state is not saved; "
                    f"the newest checkpoint is of step {max(self.checkpoints.steps, default='-')}"
                )
        self.checkpoints.save(self.step, arrays, facts_of(self))

    def _start_weights(self) -> None:
        """Those of `pretrain_weights`, and what a quantized network needs beside them."""
        run, loaded = self.experiment, None
        if run.pretrain_weights:
            loaded = load_pretrained(self.network, run.pretrain_weights)
            if self.is_main:
                log.info(loaded)
        if run.quantize and not (loaded and is_quantized(loaded.loaded)):
            self._calibrate()

    def _calibrate(self) -> None:
        run = self.experiment
        of = run.quantize
        images = self.plain_images()
        taken = calibrate(self.network, images, of.calibration_batches, of.calibration)
        if of.calibrate_norms:
            renew_norms(
                self.network,
                self.plain_images(),
                of.calibration_batches,
                keep=[*quantized_layers(self.network).values()],
            )
        # Each process has seen its own batches.
        parallel.share([*self.network.state_dict().values()])
        if self.is_main:
            layers = len(quantized_layers(self.network))
            log.info(f"quantized {layers} layers, calibrated on {taken} batches")

    def _distillation(self) -> Distillation | None:
        run = self.experiment
        if run.teacher is None:
            return None
        made = Distillation(self.network, run.teacher, run.codec.size_wh)
        if self.is_main:
            log.info(f"teacher: {made.report}")
        return made

    def _synchronise_norms(self) -> None:
        if self.experiment.to_static and not on_gpu():
            raise ConfigError("to_static: sync_batch_norm has no static graph on CPUs; drop one")
        synchronise_norms(self.network)

    def _resume(self) -> None:
        state = self.checkpoints.load() if self.is_main else None
        if self.is_main and state is None:
            raise FileNotFoundError(
                f"nothing to resume: there is no checkpoint in {self.checkpoints.folder}; start "
                "without --resume, or set output_dir"
            )
        # Other machines need not see the first one's disk.
        about = (state.path, state.facts) if state else (Path(), {})
        path, facts = parallel.from_main(about)
        restore(path, parallel.arrays_from_main(state.arrays if state else {}), facts, self)
        self.sampler.first_step = self.step


def train(experiment: Experiment, resume: bool = False) -> Trainer:
    """Trains an experiment to its end, on the devices that this process was launched for.

    Args:
        experiment: what to train.
        resume: go on from the run's newest checkpoint instead of starting anew.
    """
    parallel.start()
    folder = Path(experiment.output_dir)
    is_main = paddle.distributed.get_rank() == 0
    if is_main and not resume and Checkpoints(folder / STATES).exists:
        raise PposeError(
            f"{folder} holds a run already: --resume goes on with it, and another output_dir "
            "starts a new one"
        )
    with kept_in(folder / TRAIN_LOG) if is_main else nullcontext():
        trainer = Trainer(experiment, resume)
        if not trainer.is_over:
            trainer.train()
        elif is_main:
            print(f"this run is complete: {trainer.epoch} epochs; raise epochs to go on")
    return trainer
