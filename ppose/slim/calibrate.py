"""Scales of a quantized network from a few batches, and what quantizing each block costs."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice

import numpy as np
import paddle
from paddle import Tensor, nn

from ppose.errors import PposeError
from ppose.slim.quantize import Calibration, QuantizedLayer, quantized_layers, set_scale

_LEVELS = 127  # positive steps of int8
_BINS = 8192
_PERCENTILE = 99.99
_NOTHING = 1e-30  # float32 holds _BINS / _NOTHING
# Ranges that `mse` tries, as shares of the largest value.
_SHARES = np.geomspace(1 / 16, 1, 128)


def calibrate(
    network: nn.Layer, images: Iterable[Tensor], batches: int, method: Calibration = "mse"
) -> int:
    """Sets the scales of a quantized network, and the clipping values to the same.

    The inputs of its layers are observed while all of it computes in float, in eval mode.

    Args:
        network: all its quantized layers are set but those that no image reaches.
        images: normalised inputs (N, 3, H, W).
        batches: how many of them to take at most.
        method: where a layer's inputs x are clipped: "max" at the largest |x|; "percentile" at
            the 99.99th percentile of |x|; "mse" where the mean squared error of quantized inputs
            is least.

    Returns:
        batches taken.

    Raises:
        PposeError: the network is not quantized, there is no image, or an input of a layer is not
            finite.
    """
    layers = quantized_layers(network)
    if not layers:
        raise PposeError("calibrate: the network has no quantized layer")
    observed = {name: Magnitudes() for name in layers}
    hooks = [
        layer.register_forward_pre_hook(_observer(name, observed[name]))  # type: ignore[arg-type]
        for name, layer in layers.items()
    ]
    was_training = network.training
    network.eval()
    # A network may run more of its layers when it trains; all of them run as in evaluation.
    network.training = True
    taken = 0
    try:
        with paddle.no_grad(), only(network, ()):
            for image in islice(images, batches):
                network(image)
                taken += 1
    finally:
        for hook in hooks:
            hook.remove()
        (network.train if was_training else network.eval)()
    if not taken:
        raise PposeError("calibrate: there are no images to calibrate with")
    for name, layer in layers.items():
        _set(layer, observed[name], method)
    return taken


def _observer(name: str, magnitudes: Magnitudes) -> Callable[[nn.Layer, tuple[Tensor, ...]], None]:
    def observe(layer: nn.Layer, inputs: tuple[Tensor, ...]) -> None:
        try:
            magnitudes.add(inputs[0].numpy())
        except FloatingPointError as error:
            raise PposeError(f"calibrate: the input of '{name}' {error}") from None

    return observe


@paddle.no_grad()
def _set(layer: QuantizedLayer, magnitudes: Magnitudes, method: Calibration) -> None:
    # The layer sets the scales of its weights itself, whenever it runs.
    layer._fake_quant_weight(layer.weight)
    if magnitudes.largest > 0:
        limit = magnitudes.limit(method)
        set_scale(layer, limit)
        if layer._act_preprocess is not None:
            layer._act_preprocess.start(limit)


class Magnitudes:
    """A histogram of absolute values that grows with them.

    Attributes:
        largest: value so far.
        counts: (bins,) values other than 0 in equal steps from 0 to `span`.
        span: a power of 2 above the largest value, so that a wider histogram is made of whole bins.
    """

    def __init__(self) -> None:
        self.largest = 0.0
        self.span = 0.0
        self.counts = np.zeros(_BINS, np.int64)

    def add(self, values: np.ndarray) -> None:
        """Takes in an array of any shape.

        Raises:
            FloatingPointError: it holds NaN or infinity.
        """
        values = np.abs(values.ravel())
        largest = float(values.max(initial=0))
        if not np.isfinite(largest):
            raise FloatingPointError(f"holds {largest}")
        if largest < _NOTHING:
            return
        self.largest = max(self.largest, largest)
        self._widen(2.0 ** (np.floor(np.log2(largest)) + 1))
        bins = (values * np.float32(_BINS / self.span)).astype(np.int32)
        self.counts += np.bincount(bins, minlength=_BINS)
        self.counts[0] -= np.count_nonzero(values == 0)

    def _widen(self, span: float) -> None:
        if self.counts.any() and span > self.span:
            joined = min(int(span / self.span), _BINS)
            narrow = self.counts.reshape(-1, joined).sum(1)
            self.counts = np.zeros_like(self.counts)
            self.counts[: len(narrow)] = narrow
        self.span = max(self.span, span)

    def limit(self, method: Calibration) -> float:
        """Where to clip the values; above 0 if any value is."""
        if method == "max":
            return self.largest
        if method == "percentile":
            return self._percentile(_PERCENTILE)
        return self._least_error()

    def _percentile(self, percent: float) -> float:
        total = np.cumsum(self.counts)
        last = int(np.searchsorted(total, percent / 100 * total[-1]))
        return min((last + 1) * self.span / _BINS, self.largest)

    def _least_error(self) -> float:
        """The range in which rounding and clipping together have the least squared error."""
        filled = np.flatnonzero(self.counts)
        centres = (filled + 0.5) * (self.span / _BINS)
        limits = self.largest * _SHARES[:, None]
        steps = limits / _LEVELS
        rounded = np.round(np.minimum(centres, limits) / steps) * steps
        errors = (rounded - centres) ** 2 @ self.counts[filled]
        return float(limits[errors.argmin(), 0])


@contextmanager
def only(network: nn.Layer, names: Collection[str]) -> Iterator[None]:
    """A context in which of a network's quantized layers these alone are; the rest is float."""
    layers = quantized_layers(network)
    before = {name: layer.enabled for name, layer in layers.items()}
    try:
        for name, layer in layers.items():
            layer.enabled = name in names
        yield
    finally:
        for name, layer in layers.items():
            layer.enabled = before[name]


@dataclass(frozen=True)
class Loss:
    """What quantizing one block costs.

    Attributes:
        block: its name.
        layers: names of its layers.
        score: of the network with this block alone quantized.
        lost: score of the float network less that.
    """

    block: str
    layers: tuple[str, ...]
    score: float
    lost: float


def blocks_of(names: Iterable[str], depth: int = 3) -> dict[str, list[str]]:
    """Groups layers by the first `depth` parts of their names."""
    blocks = defaultdict(list)
    for name in names:
        blocks[".".join(name.split(".")[:depth])].append(name)
    return dict(blocks)


def sensitivity(
    network: nn.Layer,
    blocks: Mapping[str, Sequence[str]],
    score: Callable[[], float],
    whole: float | None = None,
) -> list[Loss]:
    """Quantizes each block alone.

    Args:
        network: quantized and calibrated.
        blocks: name → names of quantized layers, see `blocks_of`.
        score: of the network as it is when called; higher is better.
        whole: that of the float network, where it is known.

    Returns:
        the blocks, the costliest first.
    """
    if whole is None:
        with only(network, ()):
            whole = score()
    rows = []
    for block, layers in blocks.items():
        with only(network, layers):
            found = score()
        rows.append(Loss(block, tuple(layers), found, whole - found))
    return sorted(rows, key=lambda row: -row.lost)


def closeness(network: nn.Layer, images: Sequence[Tensor]) -> Callable[[], float]:
    """A score for `sensitivity` without labels: 0 less the error of the maps.

    The error is the squared difference to the maps that the network gives in float, as a share of
    their squares. It tells blocks apart whose AP on a few people differs by chance.

    Args:
        network: quantized and calibrated; gives one map tensor in eval mode.
        images: normalised inputs (N, 3, H, W).
    """

    @paddle.no_grad()
    def maps() -> list[Tensor]:
        network.eval()
        return [network(image) for image in images]

    with only(network, ()):
        exact = maps()
    whole = sum(float(one.square().sum()) for one in exact)

    def score() -> float:
        pairs = zip(maps(), exact, strict=True)
        return -sum(float((one - other).square().sum()) for one, other in pairs) / whole

    return score


def proposal(rows: Sequence[Loss], allowed: float) -> list[str]:
    """Patterns of the fewest blocks to exclude, so that what the others lose adds up to no more.

    Args:
        rows: of `sensitivity`.
        allowed: loss of score; that of several blocks is taken as the sum of each one's.
    """
    left = sum(max(row.lost, 0) for row in rows)
    patterns = []
    for row in sorted(rows, key=lambda row: -row.lost):
        if left <= allowed:
            break
        patterns.append(re.escape(row.block) + r"(\.|$)")
        left -= row.lost
    return patterns
