"""Training data loader: augmented samples, batch sampler, and worker processes.

Everything random is a pure function of (seed, epoch, sample): the same seed gives the same epoch
with any number of workers.
"""

from __future__ import annotations

import hashlib
import random
import sys
import warnings
from collections.abc import Generator, Iterator, Sequence
from contextlib import closing
from itertools import chain
from typing import Any, Protocol

import cv2
import numpy as np
import paddle

from ppose.codecs.codec import Codec
from ppose.config import ConfigError
from ppose.data.images import ImageError
from ppose.data.problems import DataError
from ppose.data.transforms import PipelineError, Transform, apply_transforms, check_order
from ppose.data.workers import Workers, sample_bytes
from ppose.structures import Sample
from ppose.utils.cpu import usable_cores

_MAX_REPLACEMENTS = 20
_MAX_WORKERS_PER_CORE, _MIN_WORKER_LIMIT = 4, 16


class SampleSource(Protocol):
    """A dataset; `keypoints` (N, K, 3) belong to the first person of each sample."""

    keypoints: np.ndarray

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> Sample: ...


class TrainingSet:
    """Augmented and encoded samples, indexed by (epoch, index).

    A sample whose image cannot be read is replaced by another, and marked in `replaced`.

    Raises:
        PipelineError: see `check_order`.
        DataError: no joint is labelled.
    """

    def __init__(
        self, source: SampleSource, transforms: Sequence[Transform], codec: Codec, seed: int
    ):
        check_order(transforms)
        if not (source.keypoints[..., 2] > 0).any():
            raise DataError(
                "train_dataset: no joint is labelled; a bbox_file has only boxes, train without it"
            )
        self.source = source
        self.transforms = transforms
        self.codec = codec
        self.seed = seed

    def __len__(self) -> int:
        return len(self.source)

    def fingerprint(self) -> str:
        """Hash that depends on the people of the dataset and their order."""
        return hashlib.sha256(self.source.keypoints.tobytes()).hexdigest()[:16]

    def __getitem__(self, key: tuple[int, int]) -> dict[str, Any]:
        """uint8 image (H, W, 3), the codec's targets, the sample's index, and `replaced`.

        Raises:
            ImageError: neither this image nor any of its random replacements can be read.
            PipelineError: the output size of the transforms is not the codec's input size.
        """
        epoch, index = key
        rng = np.random.default_rng((self.seed, epoch, index))
        sample, used = self._read_sample(index, rng)
        sample = apply_transforms(sample, self.transforms, rng)
        self._check_size(sample.image)
        targets = self.codec.encode(sample)
        return {
            "image": sample.image,
            "index": np.int64(used),
            "replaced": np.int64(used != index),
            **targets,
        }

    def _check_size(self, image: np.ndarray) -> None:
        height, width = image.shape[:2]
        if (width, height) != tuple(self.codec.size_wh):
            raise PipelineError(
                f"train_transforms: the output size is {width}x{height}, but the codec's input is "
                f"{self.codec.size_wh[0]}x{self.codec.size_wh[1]}; give both the same size_wh"
            )

    def _read_sample(self, index: int, rng: np.random.Generator) -> tuple[Sample, int]:
        """The sample, or a random replacement if its image cannot be read, and its index."""
        for _ in range(_MAX_REPLACEMENTS):
            try:
                return self.source[index], index
            except ImageError as error:
                last = error
                index = int(rng.integers(len(self.source)))
        raise last


class EpochSampler(paddle.io.BatchSampler):
    """Batch sampler over all epochs, from any step: yields lists of (epoch, index).

    Each epoch is a new permutation of all samples. Its steps, over all devices, differ in size by
    at most one sample, so no epoch ends with a tiny batch, and each device has a share of every
    step.

    Args:
        samples: size of the dataset.
        batch_size: maximum batch size per device. With batch size 1 on several devices, some
            batches have 2 samples if the number of samples is not a multiple of the devices.
        epochs: number of epochs.
        seed: seed of the order.
        first_step: step of the whole run to start from.
        rank, devices: index of this process, and number of processes that share the work.
        accumulate: batches per device and step (gradient accumulation).
        repeat_first: repeat the batches of the first step in every step, to test overfitting.

    Raises:
        ConfigError: `batch_size` or `accumulate` is below 1, or `epochs` below 0.
        DataError: a step has more batches than there are samples.
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
        accumulate: int = 1,
        repeat_first: bool = False,
    ):
        for name, value, least in (
            ("batch_size", batch_size, 1),
            ("accumulate", accumulate, 1),
            ("epochs", epochs, 0),
        ):
            if value < least:
                raise ConfigError(f"{name}: expected at least {least}, found {value}")
        shares = devices * accumulate
        if samples < shares:
            parts = f"{devices} devices" + (f" x accumulate {accumulate}" if accumulate > 1 else "")
            raise DataError(f"{samples} samples cannot be shared by {parts}")
        self.samples = samples
        self.steps_per_epoch = min(-(-samples // (batch_size * shares)), samples // shares)
        self.epochs = epochs
        self.seed = seed
        self.first_step = first_step
        self.rank = rank
        self.devices = devices
        self.accumulate = accumulate
        self.repeat_first = repeat_first

    def __len__(self) -> int:
        return (self.steps_per_epoch * self.epochs - self.first_step) * self.accumulate

    def samples_in(self, step: int) -> int:
        """Number of samples of all devices in a step of the whole run."""
        each, larger = divmod(self.samples, self.steps_per_epoch)
        index = 0 if self.repeat_first else step % self.steps_per_epoch
        return each + (index < larger)

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:  # type: ignore[override]
        if self.repeat_first:
            for _ in range(len(self) // self.accumulate):
                yield from self._shares(0, self._steps(0)[0])
            return
        first_epoch, skipped = divmod(self.first_step, self.steps_per_epoch)
        for epoch in range(first_epoch, self.epochs):
            for step in self._steps(epoch)[skipped if epoch == first_epoch else 0 :]:
                yield from self._shares(epoch, step)

    def _steps(self, epoch: int) -> list[np.ndarray]:
        """Sample indices of each step, over all devices."""
        order = np.random.default_rng((self.seed, epoch)).permutation(self.samples)
        return np.array_split(order, self.steps_per_epoch)

    def _shares(self, epoch: int, step: np.ndarray) -> Iterator[list[tuple[int, int]]]:
        """This device's batches of a step."""
        shares = np.array_split(step, self.devices * self.accumulate)
        for share in shares[self.rank :: self.devices]:
            yield [(epoch, int(index)) for index in share]


def training_loader(
    dataset: TrainingSet, sampler: EpochSampler, workers: int
) -> Generator[dict[str, paddle.Tensor], None, None]:
    """Batches loaded in `workers` processes, which end with the iterator; 0 uses this process.

    Raises:
        ConfigError: `workers` is below 0, or far above the number of cores.
        WorkerDiedError: a worker was killed or crashed.
        PposeError: raised by the dataset, in this process or a worker.
        RuntimeError: any other error of a worker, with its traceback.
    """
    if workers < 0:
        raise ConfigError(f"workers: expected at least 0, found {workers}")
    # A typo must not fill the memory with processes.
    limit = max(_MIN_WORKER_LIMIT, _MAX_WORKERS_PER_CORE * usable_cores())
    if workers > limit:
        raise ConfigError(
            f"workers: expected at most {limit} with {usable_cores()} cores, found {workers}"
        )
    if workers and sys.platform != "linux":
        warnings.warn("workers: worker processes need Linux; loading in this process", stacklevel=2)
        workers = 0
    return _load_in_workers(dataset, sampler, workers) if workers else _load(dataset, sampler)


def _load(
    dataset: TrainingSet, sampler: EpochSampler
) -> Generator[dict[str, paddle.Tensor], None, None]:
    for keys in sampler:
        samples = [dataset[key] for key in keys]
        yield {
            name: paddle.to_tensor(np.stack([sample[name] for sample in samples]))
            for name in samples[0]
        }


def _load_in_workers(
    dataset: TrainingSet, sampler: EpochSampler, workers: int
) -> Generator[dict[str, paddle.Tensor], None, None]:
    keys = iter(sampler)
    first = next(keys, None)
    if first is None:
        return
    pool = Workers(
        load=lambda keys: [dataset[key] for key in keys],
        workers=workers,
        batch_bytes=_batch_bytes(dataset, first),
        init=lambda index: _init_worker(dataset.seed, index),
    )
    with closing(pool):
        for batch in pool.batches(chain([first], keys)):
            yield {name: paddle.to_tensor(values) for name, values in batch.items()}


def _batch_bytes(dataset: TrainingSet, keys: list[tuple[int, int]]) -> int:
    """Bytes of the largest batch; sizes differ by at most one sample."""
    try:
        sample = dataset[keys[0]]
    except Exception:
        return 0  # the worker that loads it reports the error
    return sample_bytes(sample) * (len(keys) + 1)


def _init_worker(seed: int, index: int) -> None:
    # Threads inside the workers would compete for the cores.
    cv2.setNumThreads(0)
    # Transforms should use the given generator; those that use global ones must differ by worker.
    random.seed(f"{seed} {index}")
    np.random.seed(np.random.SeedSequence((seed, index)).generate_state(4))  # noqa: NPY002
