"""The training loop: fetch, forward, loss, backward, step, report. Hooks do the rest."""

from __future__ import annotations

import time
from collections.abc import Generator, Iterator
from contextlib import closing
from copy import copy
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import paddle

from ppose.checkpoint import load_pretrained
from ppose.data.loader import EpochSampler, training_loader
from ppose.engine.average import WeightAverage
from ppose.engine.hooks import Hook, default_hooks
from ppose.engine.interrupt import StopRequest
from ppose.engine.state import load_state, save_state
from ppose.errors import PposeError
from ppose.experiment import Experiment


class DivergedError(PposeError, FloatingPointError):
    """The loss became NaN or infinite."""


@dataclass
class StepReport:
    """What one step did.

    Attributes:
        losses: each loss by name.
        lr: learning rate of the step.
        samples: in the batch of this device.
        replaced: of them, those that stand for others whose picture could not be read.
        data_seconds: time spent waiting for the batch.
        seconds: time of the whole step.
    """

    losses: dict[str, float]
    lr: float
    samples: int
    replaced: int
    data_seconds: float
    seconds: float

    @property
    def loss(self) -> float:
        """Sum of all losses."""
        return sum(self.losses.values())


class Trainer:
    """Trains the experiment's network.

    Args:
        experiment: what to train, on what, and how.
        resume: go on from `latest` in the run's folder.
        hooks: what happens around the steps; None for the usual set.

    Attributes:
        step: optimizer steps done, over the whole run.
        best: best AP so far, None before the first evaluation.
        average: weights gathered by SWA.
    """

    def __init__(
        self, experiment: Experiment, resume: bool = False, hooks: list[Hook] | None = None
    ):
        # Before anything of the experiment is built: the network's first weights are drawn then.
        paddle.seed(experiment.seed)
        experiment.check_fit()
        self.experiment = experiment
        self.rank = paddle.distributed.get_rank()
        self.devices = paddle.distributed.get_world_size()
        self.folder = Path(experiment.output_dir)
        self.dataset = experiment.training_set()
        self.network = experiment.model
        if experiment.pretrain_weights and not resume:
            loaded = load_pretrained(self.network, experiment.pretrain_weights)
            if self.is_main:
                print(loaded)
        self.optimizer = experiment.optimizer.create(self.network.parameters())
        self.sampler = EpochSampler(
            samples=len(self.dataset),
            batch_size=experiment.batch_size,
            epochs=experiment.epochs,
            seed=experiment.seed,
            rank=self.rank,
            devices=self.devices,
        )
        self.step = 0
        self.best: float | None = None
        self.average = WeightAverage()
        if resume:
            self.step, self.best = load_state(self.latest, self)
            self.sampler.first_step = self.step
        self.hooks = default_hooks(self) if hooks is None else hooks

    @property
    def latest(self) -> Path:
        """The file that `--resume` needs."""
        return self.folder / "latest.safetensors"

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
    def is_main(self) -> bool:
        """Whether this process is the one that writes."""
        return self.rank == 0

    def train(self) -> None:
        """Runs all remaining steps.

        Raises:
            KeyboardInterrupt: Ctrl-C or SIGTERM came; the state is saved.
            DivergedError: see `run_step`.
        """
        forward = self.network if self.devices == 1 else paddle.DataParallel(self.network)
        for hook in self.hooks:
            hook.before_train(self)
        with StopRequest() as stop, closing(self.batches()) as batches:
            for batch, waited in batches:
                report = self.run_step(forward, batch, waited)
                for hook in self.hooks:
                    hook.after_step(self, report)
                if self.step % self.steps_per_epoch == 0:
                    for hook in self.hooks:
                        hook.after_epoch(self)
                if stop.requested:
                    self._stop()
        for hook in self.hooks:
            hook.after_train(self)

    def _stop(self) -> None:
        if self.is_main:
            self.save()
            print(f"saved at step {self.step} of {self.last_step}: --resume goes on from there")
        raise KeyboardInterrupt

    def run_step(
        self, forward: paddle.nn.Layer, batch: dict[str, paddle.Tensor], waited: float
    ) -> StepReport:
        """One optimizer step.

        Args:
            forward: the network, as one process or several share it.
            batch: what `TrainingSet` gives, stacked.
            waited: seconds that the batch took to arrive.

        Raises:
            DivergedError: the loss is not finite; the trained weights are as they were.
        """
        started = time.perf_counter()
        self.network.train()
        lr = self._learning_rate()
        self.optimizer.set_lr(lr)

        outputs = forward(self.experiment.normalize(batch["image"]))
        losses = self.experiment.loss(outputs, batch)
        values = self._finite(losses, batch)
        sum(losses.values()).backward()
        self.optimizer.step()
        self.optimizer.clear_grad()

        self.step += 1
        return StepReport(
            losses=values,
            lr=lr,
            samples=len(batch["index"]),
            replaced=int(batch["replaced"].sum()),
            data_seconds=waited,
            seconds=time.perf_counter() - started + waited,
        )

    def _learning_rate(self) -> float:
        run = self.experiment
        if run.swa and (rate := run.swa.learning_rate(self.epoch)) is not None:
            return rate
        factor = run.schedule.factor(self.step, self.steps_per_epoch, run.epochs)
        return run.optimizer.lr * factor

    def _finite(
        self, losses: dict[str, paddle.Tensor], batch: dict[str, paddle.Tensor]
    ) -> dict[str, float]:
        """The losses as numbers; a NaN or infinity stops the run before it harms the weights."""
        values = {name: float(loss) for name, loss in losses.items()}
        bad = [name for name, value in values.items() if not np.isfinite(value)]
        if bad:
            raise DivergedError(
                f"step {self.step}: the loss '{bad[0]}' is {values[bad[0]]}. "
                f"People of the batch: {self._names(batch['index'].numpy())}. "
                "The weights of the last checkpoint are not touched; a lower learning rate, "
                "clip_norm or a longer warm-up usually helps."
            )
        return values

    def _names(self, indices: np.ndarray) -> str:
        source = self.experiment.train_dataset
        names = [
            f"{source.images[source.image_index[i]].path.name} (id {source.person_ids[i]})"
            for i in indices
        ]
        return ", ".join(names)

    def batches(self) -> Generator[tuple[dict[str, paddle.Tensor], float], None, None]:
        """Batches to the end of the run, each with the seconds waited for it."""
        loader = training_loader(self.dataset, self.sampler, self.experiment.workers)
        started = time.perf_counter()
        for batch in loader:
            yield batch, time.perf_counter() - started
            started = time.perf_counter()

    def further_images(self) -> Iterator[paddle.Tensor]:
        """Normalised training inputs of the epoch that would come next."""
        run = self.experiment
        sampler = copy(self.sampler)
        sampler.epochs, sampler.first_step = run.epochs + 1, self.last_step
        with closing(training_loader(self.dataset, sampler, run.workers)) as loader:
            for batch in loader:
                yield run.normalize(batch["image"])

    def share_statistics(self) -> None:
        """Gives all processes the batch-norm statistics of the first, which are the saved ones."""
        if self.devices == 1:
            return
        for tensor in self.network.state_dict().values():
            if tensor.stop_gradient:
                paddle.distributed.broadcast(tensor, 0)

    def save(self) -> None:
        """Writes `latest`: everything that going on needs."""
        save_state(self.latest, self)


def train(experiment: Experiment, resume: bool = False) -> Trainer:
    """Trains an experiment to its end, on the devices that this process was launched for.

    Args:
        experiment: what to train.
        resume: go on from the run's `latest` instead of starting anew.
    """
    if paddle.distributed.get_world_size() > 1:
        paddle.distributed.init_parallel_env()
    trainer = Trainer(experiment, resume)
    if trainer.latest.exists() and not resume:
        raise PposeError(
            f"{trainer.folder} holds a run already: --resume goes on with it, and another "
            "output_dir starts a new one"
        )
    if trainer.step < trainer.last_step:
        trainer.train()
    elif trainer.is_main:
        print(f"this run is complete: {trainer.epoch} epochs; raise epochs to go on")
    return trainer
