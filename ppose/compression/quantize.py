"""Quantization-aware training (QAT) in int8 with PaddleSlim and learned clipping (PACT).

A quantized layer keeps the tensors of the float layer under their names. It adds
`_fake_quant_weight._scale`, recomputed from the weights in each forward pass;
`_fake_quant_input._scale`, `_state` and `_accum`, a moving average of the largest inputs; and
`_act_preprocess.alpha` and `unit`, whose product is the clipping value.
"""

from __future__ import annotations

from typing import Annotated, Literal

import numpy as np
import paddle
from paddle import Tensor, nn
from paddle.nn import functional as F
from paddle.nn.quant.quant_layers import QuantizedConv2D, QuantizedLinear
from paddle.regularizer import L2Decay

from ppose.compression.pact import PACT
from ppose.compression.paddleslim import paddleslim
from ppose.config import ConfigError, register
from ppose.config.patterns import match_names
from ppose.config.ranges import Count, Factor, Range, Share
from ppose.models.kernels import DepthwiseConv2D, depthwise_conv2d, uses_cpu_kernels
from ppose.utils import distributed
from ppose.weights.tensor_names import is_quantized

Calibration = Literal["max", "percentile", "mse"]
QuantizedLayer = QuantizedConv2D | QuantizedLinear
_WEIGHT_TYPES = {"channel": "channel_wise_abs_max", "tensor": "abs_max"}
_MIN_ALPHA = 1e-3  # a clipping value below 0 could not recover


@register
class Quantization:
    """Quantization-aware training in int8: `quantize:` of a config.

    Convolutions and linear layers use weights and inputs rounded to 255 levels, with
    straight-through gradients (Jacob et al., CVPR 2018). Inputs are clipped to a learned range
    (PACT: Choi et al., 2018).

    Args:
        exclude: patterns; layers whose names begin with a match stay float.
        weight_scale: one scale for each output channel, or one for each layer.
        clipping: learn the clipping values; else the range follows the largest inputs.
        clip_lr_factor: factor of the learning rate of the clipping values, which are learned
            relative to those of calibration.
        clip_decay: L2 decay of the relative clipping values, in place of the weight decay of the
            optimizer.
        moving_rate: decay of the moving average of the largest inputs.
        calibration_batches: number of training batches, without augmentation, that set scales and
            clipping values before the first step.
        calibration: method, see `ppose.compression.calibrate`.
        calibrate_norms: also re-estimate the batch-norm statistics of the quantized network from
            these batches. The statistics of the float training are better unless there are
            thousands of samples.
        freeze_norms: batch norms keep their statistics in training.
    """

    def __init__(
        self,
        exclude: list[str] | None = None,
        weight_scale: Literal["channel", "tensor"] = "channel",
        clipping: bool = True,
        clip_lr_factor: Factor = 10.0,
        clip_decay: Share = 0.0,
        moving_rate: Annotated[float, Range(least=0, below=1)] = 0.9,
        calibration_batches: Count = 16,
        calibration: Calibration = "mse",
        calibrate_norms: bool = False,
        freeze_norms: bool = True,
    ):
        self.exclude = exclude or []
        self.weight_scale = weight_scale
        self.clipping = clipping
        self.clip_lr_factor = clip_lr_factor
        self.clip_decay = clip_decay
        self.moving_rate = moving_rate
        self.calibration_batches = calibration_batches
        self.calibration = calibration
        self.calibrate_norms = calibrate_norms
        self.freeze_norms = freeze_norms

    def apply(self, network: nn.Layer) -> nn.Layer:
        """Quantizes a float network in place; its scales have to be set or loaded afterwards.

        Raises:
            ConfigError: the network is already quantized, a pattern matches no layer, or no layer
                is left.
        """
        if is_quantized(network.state_dict()):
            raise ConfigError("quantize: the network is already quantized")
        names = quantizable_layers(network)
        excluded = {n for p in self.exclude for n in match_names(p, names, "quantize.exclude")}
        if not excluded.issuperset(names):
            self._replace(network, set(names) - excluded)
            return network
        reason = f"{self.exclude} exclude all" if names else "it has no convolution or linear layer"
        raise ConfigError(f"quantize: nothing of the network is left to quantize: {reason}")

    def _replace(self, network: nn.Layer, names: set[str]) -> None:
        slim = paddleslim("dygraph.quant").QAT(
            {
                "weight_quantize_type": _WEIGHT_TYPES[self.weight_scale],
                "activation_quantize_type": "moving_average_abs_max",
                "moving_rate": float(self.moving_rate),
                "quantizable_layer_type": ["Conv2D", "Linear"],
            },
            act_preprocess=PACT if self.clipping else None,
        )
        before = dict(network.named_sublayers())
        for name, layer in before.items():
            if isinstance(layer, nn.Conv2D | nn.Linear):
                layer.skip_quant = name not in names
        # QAT.quantize would also wrap layers to record the range of outputs, which renames tensors.
        slim.imperative_qat._quantize_inputs.apply(network)
        for name, layer in network.named_sublayers():
            if name in names:
                layer.__class__ = _switched_class(layer, before[name])
                for quantizer in (layer._fake_quant_weight, layer._fake_quant_input):
                    quantizer.register_forward_post_hook(_stop_gradients)
                if self.clipping:
                    alpha = layer._act_preprocess.alpha
                    alpha.optimize_attr["learning_rate"] = self.clip_lr_factor
                    alpha.regularizer = L2Decay(self.clip_decay)


def _stop_gradients(quantizer: nn.Layer, inputs: object, output: object) -> None:
    """Freezes the scales: Paddle's quantizers make them trainable in each forward pass."""
    for statistic in quantizer.parameters():
        statistic.stop_gradient = True


class SwitchedConv2D(QuantizedConv2D):
    """A quantized convolution; a float one while `enabled` is false."""

    enabled = True

    def forward(self, x: Tensor) -> Tensor:
        if self.enabled:
            return super().forward(x)
        return F.conv2d(
            x,
            self.weight,
            self.bias,
            stride=self._stride,
            padding=self._padding,
            dilation=self._dilation,
            groups=self._groups,
            data_format=self._data_format,
        )


class SwitchedDepthwiseConv2D(SwitchedConv2D):
    """A quantized `DepthwiseConv2D`, with its fast kernel for training on a CPU."""

    def forward(self, x: Tensor) -> Tensor:
        if not (self.enabled and uses_cpu_kernels(x, self.weight)):
            return super().forward(x)
        if self._act_preprocess is not None:
            x = self._act_preprocess(x)
        weight = self._fake_quant_weight(self.weight)
        return depthwise_conv2d(self._fake_quant_input(x), weight, self._stride[0])


class SwitchedLinear(QuantizedLinear):
    """A quantized linear layer; a float one while `enabled` is false."""

    enabled = True

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) if self.enabled else F.linear(x, self.weight, self.bias)


def _switched_class(layer: nn.Layer, before: nn.Layer) -> type[QuantizedLayer]:
    if isinstance(layer, QuantizedLinear):
        return SwitchedLinear
    return SwitchedDepthwiseConv2D if isinstance(before, DepthwiseConv2D) else SwitchedConv2D


def quantizable_layers(network: nn.Layer) -> list[str]:
    """Names of the layers that can be quantized: linear and zero-padded convolutional ones."""
    return [
        name
        for name, layer in network.named_sublayers()
        if isinstance(layer, nn.Linear)
        or (isinstance(layer, nn.Conv2D) and layer._padding_mode == "zeros")
    ]


def quantized_layers(network: nn.Layer) -> dict[str, QuantizedLayer]:
    """Name → layer of all quantized layers."""
    return {n: x for n, x in network.named_sublayers() if isinstance(x, QuantizedLayer)}


@paddle.no_grad()
def update_scales(network: nn.Layer) -> None:
    """Updates the input scales after an optimizer step.

    Each is the mean over all processes, and at most the clipping value of its layer.
    """
    layers = list(quantized_layers(network).values())
    quantizers = [layer._fake_quant_input for layer in layers]
    before = paddle.concat([q._scale for q in quantizers]).numpy()
    states = paddle.concat([q._state for q in quantizers]).numpy()
    accums = distributed.all_reduce_sum(paddle.concat([q._accum for q in quantizers]))
    scales = accums / np.float32(paddle.distributed.get_world_size()) / states
    clippings = [layer._act_preprocess for layer in layers if layer._act_preprocess is not None]
    if clippings:
        alphas = paddle.concat([clipping.alpha for clipping in clippings]).numpy()
        for i in np.flatnonzero(alphas < _MIN_ALPHA):
            clippings[i].alpha.fill_(_MIN_ALPHA)
        limits = paddle.concat([clipping.limit for clipping in clippings]).numpy()
        scales = np.minimum(scales, limits)
    for i in np.flatnonzero(scales != before):
        set_scale(layers[i], float(scales[i]), float(states[i]))


def set_scale(layer: QuantizedLayer, scale: float, weight: float = 1.0) -> None:
    """Sets the scale of a layer's input and the state of its moving average.

    Args:
        layer: quantized layer.
        scale: value that the largest integer represents, above 0.
        weight: weight of the average so far, in batches.
    """
    quantizer = layer._fake_quant_input
    quantizer._scale.fill_(scale)
    quantizer._state.fill_(weight)
    quantizer._accum.fill_(scale * weight)
