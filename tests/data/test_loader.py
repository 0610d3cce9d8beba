"""Batches depend only on the seed; every sample once per epoch; broken images are replaced."""

import multiprocessing
import os
import random
import signal
from itertools import chain

import numpy as np
import pytest
from hypothesis import assume, example, given
from hypothesis import strategies as st

from ppose.config import ConfigError
from ppose.data.crops import BoxCrop
from ppose.data.images import ImageError
from ppose.data.loader import EpochSampler, TrainingSet, training_loader
from ppose.data.problems import DataError
from ppose.data.transforms import PipelineError, RandomShift, Transform, Warp
from ppose.data.workers import WorkerDiedError
from ppose.experiment import Experiment


@given(
    samples=st.integers(1, 60),
    batch_size=st.integers(1, 20),
    epochs=st.integers(1, 3),
    devices=st.integers(1, 3),
)
@example(samples=3, batch_size=1, epochs=1, devices=2)
def test_every_sample_once_per_epoch_in_even_batches(samples, batch_size, epochs, devices):
    assume(samples >= devices)
    shares = [
        list(EpochSampler(samples, batch_size, epochs, seed=0, rank=rank, devices=devices))
        for rank in range(devices)
    ]
    assert len({len(share) for share in shares}) == 1
    keys = sorted(chain.from_iterable(chain.from_iterable(shares)))
    assert keys == [(e, i) for e in range(epochs) for i in range(samples)]
    sizes = [sum(map(len, step)) for step in zip(*shares, strict=True)]
    assert max(sizes) - min(sizes) <= 1
    parts = [len(batch) for batch in chain.from_iterable(shares)]
    uneven = batch_size == 1 and samples % devices
    assert min(parts) >= 1
    assert max(parts) <= (2 if uneven else batch_size)


@given(st.integers(0, 40))
def test_any_step_can_be_the_first(first_step):
    whole = list(EpochSampler(20, 3, 6, seed=4))
    rest = EpochSampler(20, 3, 6, seed=4, first_step=first_step)
    assert list(rest) == whole[first_step:]
    assert len(rest) == len(whole) - first_step


def test_the_order_depends_on_epoch_and_seed():
    def order(seed):
        batches = list(EpochSampler(50, 50, 2, seed))
        return [tuple(index for _, index in batch) for batch in batches]

    assert len({*order(0), *order(1)}) == 4
    assert order(0) == order(0)


def test_more_devices_than_samples_is_an_error():
    with pytest.raises(DataError, match="2 samples cannot be shared by 3"):
        EpochSampler(2, 4, 1, seed=0, devices=3)


@pytest.mark.parametrize(
    ("batch_size", "epochs", "message"),
    [
        (0, 1, "batch_size: expected at least 1, found 0"),
        (4, -1, "epochs: expected at least 0, found -1"),
    ],
)
def test_invalid_batch_size_and_epochs_are_errors(batch_size, epochs, message):
    with pytest.raises(ConfigError, match=message):
        EpochSampler(20, batch_size, epochs, seed=0)


@pytest.fixture
def experiment(quickstart, small_run):
    return Experiment.from_file(quickstart, small_run)


def dataset_of(experiment, seed=0):
    return TrainingSet(
        experiment.train_dataset, experiment.train_transforms, experiment.codec, seed
    )


@pytest.mark.parametrize("workers", [1, 2, 3])
def test_batches_do_not_depend_on_the_number_of_workers(experiment, workers):
    experiment.train_transforms.insert(-1, RandomShift(0.3))
    dataset = dataset_of(experiment)
    sampler = EpochSampler(len(dataset), 8, 2, seed=0)
    alone, together = (list(training_loader(dataset, sampler, n)) for n in (0, workers))
    assert len(alone) == len(together) == 2 * sampler.steps_per_epoch
    for one, two in zip(alone, together, strict=True):
        assert one.keys() == two.keys() == {"image", "index", "replaced", "target", "weight"}
        assert all(one[k].dtype == two[k].dtype for k in one)
        assert all(one[k].numpy().tobytes() == two[k].numpy().tobytes() for k in one)


class GlobalRandom(Transform):
    """A transform that uses the global random generators."""

    def __call__(self, sample, rng):
        sample.image = np.full_like(sample.image, np.random.randint(256))  # noqa: NPY002
        sample.image[0] = random.randrange(256)
        return sample


def test_workers_have_different_global_seeds(experiment):
    dataset = dataset_of(experiment)
    dataset.transforms = [*dataset.transforms, GlobalRandom()]
    sampler = EpochSampler(len(dataset), 1, 1, seed=0)
    images = [batch["image"].numpy() for batch in training_loader(dataset, sampler, 3)]
    for row in (0, 1):
        values = [image[0, row, 0, 0] for image in images]
        assert len(set(values)) > 0.8 * len(values)


def test_a_killed_worker_is_an_error(experiment):
    batches = batches_of(dataset_of(experiment), 2)
    next(batches)
    os.kill(multiprocessing.active_children()[0].pid, signal.SIGKILL)
    with pytest.raises(WorkerDiedError, match=r"SIGKILL.*lower workers \(now 2\) or batch_size"):
        list(batches)
    assert not multiprocessing.active_children()


def test_samples_are_uint8_images_of_the_input_size_with_targets(experiment):
    sample = dataset_of(experiment)[0, 0]
    assert sample["image"].shape == (64, 64, 3)
    assert sample["image"].dtype == np.uint8
    assert sample["target"].shape == (17, 16, 16)
    assert sample["target"].max() > 0.8


def test_augmentation_depends_on_epoch_index_and_seed(experiment):
    experiment.train_transforms.insert(-1, RandomShift(0.3))
    dataset, other = dataset_of(experiment), dataset_of(experiment, seed=1)
    images = [d[key]["image"] for d in (dataset, other) for key in ((0, 0), (1, 0))]
    assert len({image.tobytes() for image in images}) == 4
    assert np.array_equal(dataset[0, 0]["image"], images[0])


class Broken:
    """A dataset in which some images cannot be read."""

    def __init__(self, source, broken):
        self.source, self.broken = source, broken

    def __len__(self):
        return len(self.source)

    def __getitem__(self, index):
        if index in self.broken:
            raise ImageError(f"image of {index} is broken")
        return self.source[index]


def test_a_broken_image_is_replaced_and_marked(experiment):
    dataset = dataset_of(experiment)
    dataset.source = Broken(dataset.source, {0})
    sample = dataset[0, 0]
    assert sample["replaced"] == 1
    assert sample["index"] != 0
    assert dataset[0, 1]["replaced"] == 0


def test_only_broken_images_is_an_error(experiment):
    dataset = dataset_of(experiment)
    dataset.source = Broken(dataset.source, range(len(dataset)))
    with pytest.raises(ImageError, match="is broken"):
        dataset[0, 0]


class Failing(Transform):
    """A transform with a bug."""

    def __call__(self, sample, rng):
        raise ZeroDivisionError("a bug")


def batches_of(dataset, workers):
    return training_loader(dataset, EpochSampler(len(dataset), 4, 9, seed=0), workers)


@pytest.mark.parametrize("workers", [0, 1, 2])
def test_errors_of_workers_are_raised_unchanged(experiment, workers):
    dataset = dataset_of(experiment)
    dataset.source = Broken(dataset.source, range(len(dataset)))
    with pytest.raises(ImageError, match="^image of .* is broken$"):
        next(batches_of(dataset, workers))
    assert not multiprocessing.active_children()


@pytest.mark.parametrize(
    ("workers", "error", "message"),
    [(0, ZeroDivisionError, "a bug"), (1, RuntimeError, "(?s)in __call__.*ZeroDivisionError: a")],
)
def test_a_bug_in_a_transform_shows_its_traceback(experiment, workers, error, message):
    dataset = dataset_of(experiment)
    dataset.transforms = [*dataset.transforms, Failing()]
    with pytest.raises(error, match=message):
        next(batches_of(dataset, workers))


def test_an_error_is_raised_after_the_preceding_batches(experiment):
    dataset = dataset_of(experiment)
    sampler = EpochSampler(len(dataset), 4, 1, seed=0)
    last = list(sampler)[-1][0][1]
    dataset.source = Broken(dataset.source, {last})
    dataset._read_sample = lambda index, rng: (dataset.source[index], index)
    batches = training_loader(dataset, sampler, 2)
    for _ in range(len(sampler) - 1):
        next(batches)
    with pytest.raises(ImageError, match=f"image of {last} is broken"):
        next(batches)


def test_workers_end_with_the_iterator(experiment):
    batches = batches_of(dataset_of(experiment), 2)
    next(batches)
    assert len(multiprocessing.active_children()) == 2
    batches.close()
    assert not multiprocessing.active_children()


def test_a_negative_number_of_workers_is_an_error(experiment):
    with pytest.raises(ConfigError, match="workers: expected at least 0, found -1"):
        batches_of(dataset_of(experiment), -1)


@pytest.mark.parametrize("count", [0, 2])
def test_a_pipeline_needs_one_warp(experiment, count):
    with pytest.raises(PipelineError, match="expected one Warp"):
        TrainingSet(experiment.train_dataset, [Warp()] * count, experiment.codec, 0)


def test_a_pipeline_must_output_the_input_size(experiment):
    steps = [BoxCrop((48, 64)), Warp()]
    dataset = TrainingSet(experiment.train_dataset, steps, experiment.codec, 0)
    with pytest.raises(PipelineError, match="48x64, but the codec's input is 64x64"):
        dataset[0, 0]


def test_a_dataset_without_labelled_joints_is_an_error(experiment):
    experiment.train_dataset.keypoints[..., 2] = 0
    with pytest.raises(DataError, match="no joint is labelled; a bbox_file has only boxes"):
        dataset_of(experiment)


def test_too_many_workers_is_an_error(experiment):
    dataset = experiment.training_set()
    with pytest.raises(ConfigError, match=r"workers: expected at most \d+ with \d+ cores"):
        batches_of(dataset, 100_000)
