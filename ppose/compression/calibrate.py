"""Calibration: scales of a quantized network from a few batches."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import contextmanager
from itertools import islice

import numpy as np
import paddle
from paddle import Tensor, nn

from ppose.compression.quantize import Calibration, QuantizedLayer, quantized_layers, set_scale
from ppose.utils.errors import PposeError

_LEVELS = 127  # positive steps of int8
_BINS = 8192
_PERCENTILE = 99.99
_TINY = 1e-30  # below it, values count as 0; _BINS / _TINY fits in float32
# Clipping limits that `mse` tries, as fractions of the largest value.
_FRACTIONS = np.geomspace(1 / 16, 1, 128)


def calibrate(
    network: nn.Layer, images: Iterable[Tensor], batches: int, method: Calibration = "mse"
) -> int:
    """Sets the scales of a quantized network and its clipping values.

    The inputs of all quantized layers are observed while the network runs in float, in eval mode.

    Args:
        network: quantized network; layers that do not run keep their scales.
        images: normalised inputs (N, 3, H, W).
        batches: maximum number of batches.
        method: where the inputs x of a layer are clipped: "max" at the largest |x|; "percentile"
            at the 99.99th percentile of |x|; "mse" at the value with the least mean squared
            quantization error.

    Returns:
        number of batches used.

    Raises:
        PposeError: the network is not quantized, there is no image, or an input of a layer is not
            finite.
    """
    layers = quantized_layers(network)
    if not layers:
        raise PposeError("calibrate: the network has no quantized layer")
    histograms = {name: AbsHistogram() for name in layers}
    hooks = [
        layer.register_forward_pre_hook(_observer(name, histograms[name]))  # type: ignore[arg-type]
        for name, layer in layers.items()
    ]
    was_training = network.training
    network.eval()
    # Some networks run further layers in training; these run too, in eval mode.
    network.training = True
    taken = 0
    try:
        with paddle.no_grad(), quantize_only(network, ()):
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
        _set(layer, histograms[name], method)
    return taken


def _observer(name: str, histogram: AbsHistogram) -> Callable[[nn.Layer, tuple[Tensor, ...]], None]:
    def observe(layer: nn.Layer, inputs: tuple[Tensor, ...]) -> None:
        try:
            histogram.add(inputs[0].numpy())
        except FloatingPointError as error:
            raise PposeError(f"calibrate: the input of '{name}' {error}") from None

    return observe


@paddle.no_grad()
def _set(layer: QuantizedLayer, histogram: AbsHistogram, method: Calibration) -> None:
    # Sets the scales of the weights.
    layer._fake_quant_weight(layer.weight)
    if histogram.largest > 0:
        limit = histogram.limit(method)
        set_scale(layer, limit)
        if layer._act_preprocess is not None:
            layer._act_preprocess.reset(limit)


class AbsHistogram:
    """A histogram of absolute values whose range grows with the values.

    Attributes:
        largest: largest value so far.
        counts: (bins,) numbers of values other than 0, in equal bins from 0 to `span`.
        span: a power of 2 above the largest value, so that whole bins are joined when it grows.
    """

    def __init__(self) -> None:
        self.largest = 0.0
        self.span = 0.0
        self.counts = np.zeros(_BINS, np.int64)

    def add(self, values: np.ndarray) -> None:
        """Adds the values of an array of any shape.

        Raises:
            FloatingPointError: a value is NaN or infinite.
        """
        values = np.abs(values.ravel())
        largest = float(values.max(initial=0))
        if not np.isfinite(largest):
            raise FloatingPointError(f"contains {largest}")
        if largest < _TINY:
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
        """The value at which to clip; above 0 unless all values are 0."""
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
        """The limit with the least squared error of rounding and clipping."""
        filled = np.flatnonzero(self.counts)
        centers = (filled + 0.5) * (self.span / _BINS)
        limits = self.largest * _FRACTIONS[:, None]
        steps = limits / _LEVELS
        rounded = np.round(np.minimum(centers, limits) / steps) * steps
        errors = (rounded - centers) ** 2 @ self.counts[filled]
        return float(limits[errors.argmin(), 0])


@contextmanager
def quantize_only(network: nn.Layer, names: Collection[str]) -> Iterator[None]:
    """A context in which only the quantized layers `names` are quantized; the others are float."""
    layers = quantized_layers(network)
    before = {name: layer.enabled for name, layer in layers.items()}
    try:
        for name, layer in layers.items():
            layer.enabled = name in names
        yield
    finally:
        for name, layer in layers.items():
            layer.enabled = before[name]
