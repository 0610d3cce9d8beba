"""Averaging of weights."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from ppose.structures.trained_for import KEY, TrainedFor
from ppose.utils.errors import PposeError
from ppose.weights.loading import read_weights, weights_metadata
from ppose.weights.weight_file import WeightsError, float32


class WeightAverage:
    """Running mean of weights.

    Attributes:
        count: number of averaged sets of weights.
        mean: name → float32 array; empty before the first set.
    """

    def __init__(self, mean: Mapping[str, np.ndarray] | None = None, count: int = 0):
        self.mean = dict(mean or {})
        self.count = count

    def add(self, arrays: Mapping[str, np.ndarray]) -> None:
        """Adds a set of weights with the same names and shapes."""
        self.count += 1
        for name, array in arrays.items():
            before = self.mean.get(name)
            if before is None:
                self.mean[name] = np.array(array, np.float32)
            else:
                before += (array - before) / self.count


def average_files(sources: Sequence[str | Path]) -> dict[str, np.ndarray]:
    """The mean of several weight files of one network.

    Args:
        sources: paths or URLs of .safetensors or .pdparams files or of training states.

    Raises:
        WeightsError: unreadable files, different networks, or values that are not finite.
        PposeError: fewer than two files.
    """
    if len(sources) < 2:
        raise PposeError(f"averaging needs at least two checkpoints, found {len(sources)}")
    average = WeightAverage()
    for source in sources:
        arrays = read_weights(source)
        if average.mean:
            _check_same(average.mean, arrays, sources[0], source)
        try:
            average.add({name: float32(name, array) for name, array in arrays.items()})
        except WeightsError as error:
            raise WeightsError(f"{source}: {error}") from None
    return average.mean


def common_purpose(sources: Sequence[str | Path]) -> dict[str, str]:
    """What the weights of several files were trained for, as metadata; empty if none tells.

    Raises:
        WeightsError: they were trained for different things.
    """
    told = {source: TrainedFor.read(weights_metadata(source).get(KEY)) for source in sources}
    known = {source: trained for source, trained in told.items() if trained}
    if not known:
        return {}
    (first, purpose), *others = known.items()
    for source, trained in others:
        if wrong := trained.differences(purpose):
            raise WeightsError(f"{source}, unlike {first}, was trained for {'; '.join(wrong)}")
    return purpose.metadata()


def _check_same(
    first: Mapping[str, np.ndarray], other: Mapping[str, np.ndarray], *names: str | Path
) -> None:
    differing = sorted(first.keys() ^ other.keys()) or [
        name for name in first if first[name].shape != other[name].shape
    ]
    if differing:
        raise WeightsError(
            f"{names[1]} is for another network than {names[0]}: {len(differing)} tensors differ, "
            f"such as '{differing[0]}'"
        )
