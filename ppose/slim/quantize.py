"""int8 weights and activations in training, by PaddleSlim's QAT, with learned clipping (PACT).

A quantized layer keeps the tensors of the float one under their names. Beside them lie
`_fake_quant_weight._scale`, recomputed from the weights whenever the layer runs;
`_fake_quant_input._scale`, `_state` and `_accum`, a moving average of the largest inputs; and
`_act_preprocess.alpha` and `unit`, whose product is the clipping value.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal

import numpy as np
import paddle
from paddle import Tensor, nn
from paddle.nn import functional as F
from paddle.nn.quant.quant_layers import QuantizedConv2D, QuantizedLinear
from paddle.regularizer import L2Decay

from ppose.engine import parallel
from ppose.engine.optim import matching
from ppose.models.kernels import DepthwiseConv2D, depthwise_conv2d, recorded_on_cpu
from ppose.registry import ConfigError, register
from ppose.slim.clipping import Clipping
from ppose.slim.library import paddleslim

Calibration = Literal["max", "percentile", "mse"]
QuantizedLayer = QuantizedConv2D | QuantizedLinear

_WEIGHT, _INPUT, _CLIPPING = "_fake_quant_weight", "_fake_quant_input", "_act_preprocess"
_WEIGHT_TYPES = {"channel": "channel_wise_abs_max", "tensor": "abs_max"}
_LEAST_ALPHA = 1e-3  # a clipping value that fell below 0 could not come back


@register
class Quantization:
    """`quantize:` of a config: int8 weights and activations in training.

    Convolutions and linear layers compute with weights and inputs rounded to 255 steps, and pass
    gradients as if they had not (Jacob et al., CVPR 2018). Inputs are clipped to a range that is
    learned (PACT: Choi et al., 2018).

    Args:
        exclude: patterns; layers whose names begin with a match stay float.
        weight_scale: one scale for each output channel, or one for all weights of a layer.
        clipping: learn where inputs are clipped; else their largest values alone decide.
        clip_lr_factor: factor of the learning rate of the clipping values, which are learned as
            shares of what calibration found.
        clip_decay: L2 decay of these shares, in place of an L2 term of the optimizer.
        moving_rate: share that the average of the largest inputs keeps of itself in a step.
        calibration_batches: training batches, without augmentation, that set scales and clipping
            values before the first step.
        calibration: how these choose an input's range, see `ppose.slim.calibrate`.
        calibrate_norms: the batches also measure batch-norm statistics anew, of the quantized
            network. Those of the float training are better unless there are thousands of samples.
        freeze_norms: batch norms keep their statistics in training.
    """

    def __init__(
        self,
        exclude: list[str] | None = None,
        weight_scale: Literal["channel", "tensor"] = "channel",
        clipping: bool = True,
        clip_lr_factor: float = 10.0,
        clip_decay: float = 0.0,
        moving_rate: float = 0.9,
        calibration_batches: int = 16,
        calibration: Calibration = "mse",
        calibrate_norms: bool = False,
        freeze_norms: bool = True,
    ):
        if not clip_lr_factor > 0:
            raise ValueError(f"clip_lr_factor has to be above 0, found {clip_lr_factor}")
        if not clip_decay >= 0:
            raise ValueError(f"clip_decay has to be at least 0, found {clip_decay}")
        if not 0 <= moving_rate < 1:
            raise ValueError(f"moving_rate has to be at least 0 and below 1, found {moving_rate}")
        if calibration_batches < 1:
            raise ValueError(f"calibration_batches starts at 1, found {calibration_batches}")
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
        """Quantizes a float network in place; its scales are still to be set or loaded.

        Raises:
            ConfigError: it already is quantized, a pattern fits no layer, or no layer is left.
        """
        if is_quantized(network.state_dict()):
            raise ConfigError("quantize: the network is quantized already")
        names = quantizable(network)
        left_out = {n for p in self.exclude for n in matching(p, names, "quantize.exclude")}
        if not left_out.issuperset(names):
            self._replace(network, set(names) - left_out)
            return network
        reason = f"{self.exclude} exclude all" if names else "it has no convolution or linear layer"
        raise ConfigError(f"quantize: nothing of the network is left to quantize: {reason}")

    def _replace(self, network: nn.Layer, chosen: set[str]) -> None:
        slim = paddleslim("dygraph.quant").QAT(
            {
                "weight_quantize_type": _WEIGHT_TYPES[self.weight_scale],
                "activation_quantize_type": "moving_average_abs_max",
                "moving_rate": float(self.moving_rate),
                "quantizable_layer_type": ["Conv2D", "Linear"],
            },
            act_preprocess=Clipping if self.clipping else None,
        )
        before = dict(network.named_sublayers())
        for name, layer in before.items():
            if isinstance(layer, nn.Conv2D | nn.Linear):
                layer.skip_quant = name not in chosen
        # QAT.quantize also wraps layers to record the range of outputs, which renames tensors.
        slim.imperative_qat._quantize_inputs.apply(network)
        for name, layer in network.named_sublayers():
            if name in chosen:
                layer.__class__ = _switched(layer, before[name])
                for quantizer in (layer._fake_quant_weight, layer._fake_quant_input):
                    quantizer.register_forward_post_hook(_take_no_gradient)
                if self.clipping:
                    alpha = layer._act_preprocess.alpha
                    alpha.optimize_attr["learning_rate"] = self.clip_lr_factor
                    alpha.regularizer = L2Decay(self.clip_decay)


def _take_no_gradient(quantizer: nn.Layer, inputs: object, output: object) -> None:
    """Paddle's quantizers write their scales by an operator that makes them trainable."""
    for statistic in quantizer.parameters():
        statistic.stop_gradient = True


class SwitchedConv2D(QuantizedConv2D):
    """A quantized convolution, or the float one while `enabled` is off."""

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
    """A quantized `DepthwiseConv2D`, as fast in training on a CPU as the float one."""

    def forward(self, x: Tensor) -> Tensor:
        if not (self.enabled and recorded_on_cpu(x, self.weight)):
            return super().forward(x)
        if self._act_preprocess is not None:
            x = self._act_preprocess(x)
        weight = self._fake_quant_weight(self.weight)
        return depthwise_conv2d(self._fake_quant_input(x), weight, self._stride[0])


class SwitchedLinear(QuantizedLinear):
    """A quantized linear layer, or the float one while `enabled` is off."""

    enabled = True

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) if self.enabled else F.linear(x, self.weight, self.bias)


def _switched(layer: nn.Layer, before: nn.Layer) -> type[QuantizedLayer]:
    if isinstance(layer, QuantizedLinear):
        return SwitchedLinear
    return SwitchedDepthwiseConv2D if isinstance(before, DepthwiseConv2D) else SwitchedConv2D


def quantizable(network: nn.Layer) -> list[str]:
    """Names of the float layers that can be quantized: linear ones and convolutions that pad
    with zeros."""
    return [
        name
        for name, layer in network.named_sublayers()
        if isinstance(layer, nn.Linear)
        or (isinstance(layer, nn.Conv2D) and layer._padding_mode == "zeros")
    ]


def quantized_layers(network: nn.Layer) -> dict[str, QuantizedLayer]:
    """Name → layer of all that is quantized."""
    return {n: x for n, x in network.named_sublayers() if isinstance(x, QuantizedLayer)}


def is_quantized(names: Iterable[str]) -> bool:
    """Whether tensors of these names are those of a quantized network."""
    return any(name.endswith(f"{_WEIGHT}._scale") for name in names)


def float_names(names: Iterable[str]) -> list[str]:
    """Of the tensors of a quantized network, the names of those that the float one has too."""
    own = {_WEIGHT, _INPUT, _CLIPPING}
    return [name for name in names if own.isdisjoint(name.split("."))]


@paddle.no_grad()
def settle_scales(network: nn.Layer) -> None:
    """Behind an optimizer step: no scale is above its clipping value, nor different in another
    process, which takes the mean of all."""
    layers = list(quantized_layers(network).values())
    quantizers = [layer._fake_quant_input for layer in layers]
    before = paddle.concat([q._scale for q in quantizers]).numpy()
    states = paddle.concat([q._state for q in quantizers]).numpy()
    accums = parallel.summed(paddle.concat([q._accum for q in quantizers]))
    scales = accums / np.float32(paddle.distributed.get_world_size()) / states
    clippings = [layer._act_preprocess for layer in layers if layer._act_preprocess is not None]
    if clippings:
        alphas = paddle.concat([clipping.alpha for clipping in clippings]).numpy()
        for i in np.flatnonzero(alphas < _LEAST_ALPHA):
            clippings[i].alpha.fill_(_LEAST_ALPHA)
        limits = paddle.concat([clipping.limit for clipping in clippings]).numpy()
        scales = np.minimum(scales, limits)
    for i in np.flatnonzero(scales != before):
        set_scale(layers[i], float(scales[i]), float(states[i]))


def set_scale(layer: QuantizedLayer, scale: float, weight: float = 1.0) -> None:
    """Sets where a layer's input is clipped, and from where its moving average goes on.

    Args:
        layer: the largest integer stands for `scale` in it.
        scale: above 0.
        weight: of the average so far, in batches.
    """
    quantizer = layer._fake_quant_input
    quantizer._scale.fill_(scale)
    quantizer._state.fill_(weight)
    quantizer._accum.fill_(scale * weight)
