"""The training data of a run: which batches each step takes."""

from __future__ import annotations

import time
from collections.abc import Generator, Iterator
from contextlib import closing
from copy import copy
from itertools import islice

import paddle

from ppose.data.loader import EpochSampler, TrainingSet, training_loader
from ppose.experiment import Experiment
from ppose.training.step import Batch


class TrainingData:
    """Samples of an experiment's training data in the order of its steps, for this process.

    Args:
        experiment: data, transforms, codec, batch size, seed.

    Attributes:
        dataset: samples with their targets.
        sampler: which of them a step takes.
    """

    def __init__(self, experiment: Experiment):
        self.experiment = experiment
        self.dataset = experiment.training_set()
        self.sampler = EpochSampler(
            samples=len(self.dataset),
            batch_size=experiment.batch_size,
            epochs=experiment.epochs,
            seed=experiment.seed,
            rank=paddle.distributed.get_rank(),
            devices=paddle.distributed.get_world_size(),
            accumulate=experiment.accumulate,
            repeat_first=experiment.overfit_batch,
        )

    @property
    def is_main(self) -> bool:
        """Whether this process is the first, which writes."""
        return self.sampler.rank == 0

    @property
    def steps_per_epoch(self) -> int:
        """Optimizer steps of one pass over the data."""
        return self.sampler.steps_per_epoch

    @property
    def last_step(self) -> int:
        """Optimizer steps of the whole run."""
        return self.steps_per_epoch * self.experiment.epochs

    def batches(self, done: int = 0) -> Generator[tuple[list[Batch], float], None, None]:
        """The batches of each step to the end of the run, and the seconds waited for them.

        Args:
            done: steps of the run that are not taken again.
        """
        self.sampler.first_step = done
        loader = training_loader(self.dataset, self.sampler, self.experiment.workers)
        with closing(loader):
            started = time.perf_counter()
            while step := list(islice(loader, self.experiment.accumulate)):
                yield step, time.perf_counter() - started
                started = time.perf_counter()

    def further_images(self) -> Iterator[paddle.Tensor]:
        """Normalised training inputs of the epoch after the last one."""
        return self._images(self.last_step, self.dataset)

    def plain_images(self) -> Iterator[paddle.Tensor]:
        """Normalised inputs of the first epoch, without augmentation."""
        return self._images(0, self.experiment.training_set(augmented=False))

    def _images(self, step: int, dataset: TrainingSet) -> Iterator[paddle.Tensor]:
        """Normalised inputs of the epoch that begins at a step."""
        sampler = copy(self.sampler)
        sampler.first_step = step
        sampler.epochs = step // self.steps_per_epoch + 1
        with closing(training_loader(dataset, sampler, self.experiment.workers)) as loader:
            for batch in loader:
                yield self.experiment.normalize(batch["image"])
