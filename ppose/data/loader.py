"""Batches for training: which samples, in which order, and their random draws.

Everything random is a pure function of (seed, epoch, sample): the same seed gives the same
epoch, whatever the number of workers.
"""

from __future__ import annotations

import signal
import traceback
from collections.abc import Generator, Iterator, Sequence
from typing import Any, Protocol

import cv2
import numpy as np
import paddle

from ppose.codecs.codec import Codec
from ppose.data.images import ImageError
from ppose.data.problems import DataError
from ppose.data.transforms import PipelineError, Transform, Warp, augmented
from ppose.errors import PposeError
from ppose.registry import ConfigError
from ppose.structures import Sample

_REPLACEMENTS = 20


class SampleSource(Protocol):
    """A data set; `keypoints` (N, K, 3) are those of the first person of each sample."""

    keypoints: np.ndarray

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> Sample: ...


class TrainingSet(paddle.io.Dataset):
    """Augmented, encoded samples, indexed by (epoch, index).

    A sample whose picture cannot be read is replaced by another, and marked in `replaced`.

    Raises:
        PipelineError: not exactly one `Warp`.
        DataError: no joint is labelled.
    """

    def __init__(
        self, source: SampleSource, transforms: Sequence[Transform], codec: Codec, seed: int
    ):
        super().__init__()
        if sum(isinstance(t, Warp) for t in transforms) != 1:
            names = ", ".join(type(t).__name__ for t in transforms)
            raise PipelineError(f"train_transforms: expected one Warp, found {names or 'nothing'}")
        if not (source.keypoints[..., 2] > 0).any():
            raise DataError(
                "train_dataset: no joint is labelled; a bbox_file has boxes only, train without it"
            )
        self.source = source
        self.transforms = transforms
        self.codec = codec
        self.seed = seed

    def __len__(self) -> int:
        return len(self.source)

    def __getitem__(self, key: tuple[int, int]) -> dict[str, Any]:  # type: ignore[override]
        """uint8 image (H, W, 3), the codec's targets, the sample's index, and `replaced`.

        Raises:
            ImageError: neither this picture nor any of those drawn in its place can be read.
            PipelineError: the transforms do not end in the codec's input size.
        """
        epoch, index = key
        rng = np.random.default_rng((self.seed, epoch, index))
        sample, used = self._readable(index, rng)
        sample = augmented(sample, self.transforms, rng)
        self._check_size(sample.image)
        targets = self.codec.targets(sample)
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
                f"train_transforms: end in pictures of {width}x{height}, but the codec's input is "
                f"{self.codec.size_wh[0]}x{self.codec.size_wh[1]}; give both the same size_wh"
            )

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

    Each epoch is a new order in which every sample stands once. Its batches, over all devices,
    are of equal size to within one sample, so that no epoch ends in a tiny batch, and each device
    has a part in every one.

    Args:
        samples: size of the data set.
        batch_size: for each device; the largest batch, but where several devices at batch size 1
            do not divide the samples, some take 2.
        epochs: number of epochs.
        seed: of the order.
        first_step: step of the whole run to start from.
        rank, devices: this process and how many share the work.

    Raises:
        ConfigError: `batch_size` below 1 or `epochs` below 0.
        DataError: fewer samples than devices.
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
        if batch_size < 1:
            raise ConfigError(f"batch_size: expected at least 1, found {batch_size}")
        if epochs < 0:
            raise ConfigError(f"epochs: expected at least 0, found {epochs}")
        if samples < devices:
            raise DataError(f"{samples} samples cannot be shared by {devices} devices")
        self.samples = samples
        self.steps_per_epoch = min(-(-samples // (batch_size * devices)), samples // devices)
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
) -> Generator[dict[str, paddle.Tensor], None, None]:
    """Batches loaded in `workers` processes, which end with the iterator; 0 loads in this one.

    Raises:
        ConfigError: `workers` below 0.
        PposeError: what the data set raises, from whichever process.
        RuntimeError: any other error of a worker, with its trace.
    """
    if workers < 0:
        raise ConfigError(f"workers: expected at least 0, found {workers}")
    return _load_in_workers(dataset, sampler, workers) if workers else _load(dataset, sampler)


def _load(
    dataset: TrainingSet, sampler: EpochSampler
) -> Generator[dict[str, paddle.Tensor], None, None]:
    for keys in sampler:
        batch = _stack([dataset[key] for key in keys])
        yield {name: paddle.to_tensor(values) for name, values in batch.items()}


def _load_in_workers(
    dataset: TrainingSet, sampler: EpochSampler, workers: int
) -> Generator[dict[str, paddle.Tensor], None, None]:
    loader = paddle.io.DataLoader(
        _Guarded(dataset),
        batch_sampler=sampler,
        num_workers=workers,
        collate_fn=_stack_or_error,  # type: ignore[arg-type]
        worker_init_fn=_start_worker,
    )
    batches = iter(loader)
    try:
        for batch in batches:
            if "error" in batch:
                raise batch["error"]
            yield batch
    finally:
        # Paddle has no public way to stop early; its reader thread keeps the workers alive.
        batches._try_shutdown_all()  # type: ignore[attr-defined]


class _Guarded(paddle.io.Dataset):
    """Samples, or the error instead: Paddle's loader loses what is raised in a worker."""

    def __init__(self, dataset: TrainingSet):
        super().__init__()
        self.dataset = dataset

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, key: tuple[int, int]) -> dict[str, Any] | Exception:  # type: ignore[override]
        try:
            return self.dataset[key]
        except PposeError as error:
            return error
        except Exception:
            return RuntimeError(f"(epoch, sample) {key}: {traceback.format_exc()}")


def _stack(samples: Sequence[dict[str, Any]]) -> dict[str, np.ndarray]:
    return {name: np.stack([sample[name] for sample in samples]) for name in samples[0]}


def _stack_or_error(samples: Sequence[dict[str, Any] | Exception]) -> dict[str, Any]:
    for sample in samples:
        if isinstance(sample, Exception):
            # Paddle takes a batch without an array for the end.
            return {"error": sample, "image": np.zeros(1, np.uint8)}
    return _stack(samples)  # type: ignore[arg-type]


def _start_worker(worker_id: int) -> None:
    """Workers are the parallelism; threads inside them would only fight."""
    cv2.setNumThreads(0)
    # Ctrl-C reaches the whole process group; the trainer stops its workers when it is ready.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
