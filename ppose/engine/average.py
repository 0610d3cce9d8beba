"""Averages of weights: of checkpoints by hand, or gathered in training (SWA)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import paddle

from ppose.checkpoint import set_weights, weights_in
from ppose.data.loader import EpochSampler, training_loader
from ppose.engine.norms import renew_norms
from ppose.errors import PposeError
from ppose.files import check_writable
from ppose.registry import register
from ppose.weightfile import WeightsError, float32, save_arrays

if TYPE_CHECKING:
    from ppose.experiment import Experiment


class WeightAverage:
    """The mean of many sets of weights, without holding more than one of them.

    Attributes:
        count: sets so far.
        mean: name → float32 array; empty before the first set.
    """

    def __init__(self, mean: Mapping[str, np.ndarray] | None = None, count: int = 0):
        self.mean = dict(mean or {})
        self.count = count

    def add(self, arrays: Mapping[str, np.ndarray]) -> None:
        """Takes in one more set of the same names and shapes."""
        self.count += 1
        for name, array in arrays.items():
            before = self.mean.get(name)
            if before is None:
                self.mean[name] = np.array(array, np.float32)
            else:
                before += (array - before) / self.count


@contextmanager
def borrowed(
    network: paddle.nn.Layer, weights: Mapping[str, np.ndarray | paddle.Tensor]
) -> Iterator[None]:
    """A context in which a network has other weights, of the same names and shapes."""
    own = network.state_dict()
    kept = {name: tensor.clone() for name, tensor in own.items()}
    try:
        for name, tensor in own.items():
            given = weights[name]
            given = given if isinstance(given, paddle.Tensor) else paddle.to_tensor(given)
            tensor.set_value(given.astype(tensor.dtype))
        yield
    finally:
        for name, tensor in own.items():
            tensor.set_value(kept[name])


@register
class SWA:
    """Stochastic weight averaging (Izmailov et al., 2018), with which SimplePose ends its training.

    From `start_epoch` on, the weights behind every `every`-th epoch enter a mean. Behind the last
    epoch the mean gets batch-norm statistics of its own, is evaluated, and saved as
    `swa.safetensors`. (SimplePose freezes batch norm from then on instead.)

    Args:
        start_epoch: epochs that are trained before, at least 0.
        every: epochs between two sets.
        lr: learning rate from then on, the highest and the lowest: it falls between two sets,
            epoch by epoch, and a set is taken at its lowest. None keeps the schedule. As the
            optimizer's own, it is meant for `base_batch` samples.
        norm_batches: training batches for the batch-norm statistics.
    """

    def __init__(
        self,
        start_epoch: int,
        every: int = 1,
        lr: tuple[float, float] | None = None,
        norm_batches: int = 100,
    ):
        if start_epoch < 0:
            raise ValueError(f"start_epoch has to be at least 0, found {start_epoch}")
        if every < 1 or norm_batches < 1:
            raise ValueError(f"every and norm_batches start at 1, found {every}, {norm_batches}")
        if lr is not None and not lr[0] >= lr[1] > 0:
            raise ValueError(f"lr is the highest and the lowest rate above 0, found {lr}")
        if lr is not None and every == 1 and lr[0] != lr[1]:
            raise ValueError(f"lr cannot fall from {lr[0]} to {lr[1]} within a cycle of one epoch")
        self.start_epoch = start_epoch
        self.every = every
        self.lr = lr
        self.norm_batches = norm_batches

    def takes(self, epoch: int) -> bool:
        """Whether the weights behind this many completed epochs enter the mean."""
        return epoch > self.start_epoch and (epoch - self.start_epoch) % self.every == 0

    def learning_rate(self, epoch: int) -> float | None:
        """That of the epoch behind this many completed ones; None where the schedule rules."""
        if self.lr is None or epoch < self.start_epoch:
            return None
        highest, lowest = self.lr
        done = (epoch - self.start_epoch) % self.every
        return highest - (highest - lowest) * done / max(self.every - 1, 1)


def average_files(sources: Sequence[str | Path]) -> dict[str, np.ndarray]:
    """The mean of several weight files of one network.

    Args:
        sources: paths or addresses of .safetensors or .pdparams files, training states too.

    Raises:
        WeightsError: unreadable, not of one network, or not finite.
        PposeError: fewer than two files.
    """
    if len(sources) < 2:
        raise PposeError(f"a mean needs at least two checkpoints, found {len(sources)}")
    average = WeightAverage()
    for source in sources:
        arrays = weights_in(source)
        if average.mean:
            _check_same(average.mean, arrays, sources[0], source)
        try:
            average.add({name: float32(name, array) for name, array in arrays.items()})
        except WeightsError as error:
            raise WeightsError(f"{source}: {error}") from None
    return average.mean


def write_average(
    sources: Sequence[str | Path],
    output: str | Path,
    experiment: Experiment | None = None,
    norm_batches: int = 100,
) -> None:
    """Writes the mean of several weight files.

    Args:
        sources: see `average_files`.
        output: a .safetensors file.
        experiment: batch-norm statistics are measured on its training data; None averages them.
        norm_batches: training batches for that.

    Raises:
        PposeError: `output` has another ending, or is one of the sources.
        WeightsError: see `average_files`; weights of another network than the experiment's.
    """
    output = Path(output)
    if output.suffix != ".safetensors":
        raise PposeError(f"{output}: weights are written as .safetensors")
    if any(output.exists() and Path(s).exists() and output.samefile(s) for s in sources):
        raise PposeError(f"{output} is one of the checkpoints; choose another output")
    check_writable(output)
    arrays = average_files(sources)
    norms = "averaged"
    if experiment:
        set_weights(experiment.model, arrays, "the mean")
        data = experiment.training_set()
        sampler = EpochSampler(len(data), experiment.batch_size, 1, experiment.seed)
        with closing(training_loader(data, sampler, experiment.workers)) as loader:
            images = (experiment.normalize(batch["image"]) for batch in loader)
            taken = renew_norms(experiment.model, images, norm_batches)
        arrays = {name: tensor.numpy() for name, tensor in experiment.model.state_dict().items()}
        norms = f"measured on {taken} batches"
    save_arrays(output, arrays, {"averaged": ", ".join(map(str, sources))})
    print(f"{output}: mean of {len(sources)} checkpoints, {len(arrays)} tensors, norms {norms}")


def _check_same(
    first: Mapping[str, np.ndarray], other: Mapping[str, np.ndarray], *names: str | Path
) -> None:
    differing = sorted(first.keys() ^ other.keys()) or [
        name for name in first if first[name].shape != other[name].shape
    ]
    if differing:
        raise WeightsError(
            f"{names[1]} is of another network than {names[0]}: {len(differing)} tensors differ, "
            f"such as '{differing[0]}'"
        )
