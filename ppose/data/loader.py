"""Batches for training: which samples, in which order, and their random draws.

Everything random is a pure function of (seed, epoch, sample): the same seed gives the same
epoch, whatever the number of workers.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Protocol

import cv2
import numpy as np
import paddle

from ppose.data.images import ImageError
from ppose.data.transforms import Transform, Warp, augmented
from ppose.structures import Sample

_REPLACEMENTS = 20


class SampleSource(Protocol):
    """A data set of single people."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> Sample: ...


class Encoder(Protocol):
    """The part of a codec that training needs."""

    def encode(self, keypoints: np.ndarray) -> dict[str, np.ndarray]: ...


class TrainingSet(paddle.io.Dataset):
    """Augmented, encoded samples, indexed by (epoch, index).

    A sample whose picture cannot be read is replaced by another, and marked in `replaced`.
    """

    def __init__(
        self, source: SampleSource, transforms: Sequence[Transform], codec: Encoder, seed: int
    ):
        super().__init__()
        if sum(isinstance(t, Warp) for t in transforms) != 1:
            names = ", ".join(type(t).__name__ for t in transforms)
            raise ValueError(f"train_transforms: expected one Warp, found {names or 'nothing'}")
        self.source = source
        self.transforms = transforms
        self.codec = codec
        self.seed = seed

    def __len__(self) -> int:
        return len(self.source)

    def __getitem__(self, key: tuple[int, int]) -> dict[str, Any]:  # type: ignore[override]
        """uint8 image (H, W, 3), the codec's targets, the sample's index, and `replaced`."""
        epoch, index = key
        rng = np.random.default_rng((self.seed, epoch, index))
        sample, used = self._readable(index, rng)
        sample = augmented(sample, self.transforms, rng)
        targets = self.codec.encode(sample.keypoints[0])
        return {
            "image": sample.image,
            "index": np.int64(used),
            "replaced": np.int64(used != index),
            **targets,
        }

    def _readable(self, index: int, rng: np.random.Generator) -> tuple[Sample, int]:
        for _ in range(_REPLACEMENTS):
            try:
                return self.source[index], index
            except ImageError as error:
                last = error
                index = int(rng.integers(len(self.source)))
        raise last


class EpochSampler(paddle.io.BatchSampler):
    """All batches of all epochs, from any step on, as lists of (epoch, index).

    Each epoch is a new order in which every sample stands once. Its batches are of equal size to
    within one sample, so that no epoch ends in a tiny batch.

    Args:
        samples: size of the data set.
        batch_size: for each device; the largest batch.
        epochs: number of epochs.
        seed: of the order.
        first_step: step of the whole run to start from.
        rank, devices: this process and how many share the work.
    """

    def __init__(
        self,
        samples: int,
        batch_size: int,
        epochs: int,
        seed: int,
        first_step: int = 0,
        rank: int = 0,
        devices: int = 1,
    ):
        if samples < devices:
            raise ValueError(f"{samples} samples cannot be shared by {devices} devices")
        self.samples = samples
        self.steps_per_epoch = -(-samples // (batch_size * devices))
        self.epochs = epochs
        self.seed = seed
        self.first_step = first_step
        self.rank = rank
        self.devices = devices

    def __len__(self) -> int:
        return self.steps_per_epoch * self.epochs - self.first_step

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:  # type: ignore[override]
        first_epoch, skipped = divmod(self.first_step, self.steps_per_epoch)
        for epoch in range(first_epoch, self.epochs):
            order = np.random.default_rng((self.seed, epoch)).permutation(self.samples)
            batches = np.array_split(order, self.steps_per_epoch)
            for batch in batches[skipped if epoch == first_epoch else 0 :]:
                share = np.array_split(batch, self.devices)[self.rank]
                yield [(epoch, int(index)) for index in share]


def training_loader(
    dataset: TrainingSet, sampler: EpochSampler, workers: int
) -> paddle.io.DataLoader:
    """Loads batches in `workers` processes; 0 loads in this one."""
    return paddle.io.DataLoader(
        dataset,
        batch_sampler=sampler,
        num_workers=workers,
        return_list=True,
        worker_init_fn=_one_thread,
    )


def _one_thread(worker_id: int) -> None:
    """Workers are the parallelism; threads inside them would only fight."""
    cv2.setNumThreads(0)
