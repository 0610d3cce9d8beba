"""Batch norm folding: merges batch norms into the convolutions before them."""

from __future__ import annotations

import numpy as np
import paddle
from paddle import nn
from paddle.nn.quant.quant_layers import FakeQuantChannelWiseAbsMax, QuantizedConv2D

from ppose.export.pdmodel import CONVOLUTIONS, Program, trace


def fold_batch_norms(network: nn.Layer, size_wh: tuple[int, int] | None) -> int:
    """Folds batch norms into the convolutions before them, in place.

    A norm is folded only if it alone reads the convolution's output. A quantized convolution with
    per-channel scales keeps its integer weights; one with a single scale keeps its norm.

    Args:
        network: in eval mode; gradients of its parameters are switched off.
        size_wh: size of the input images; None if it is dynamic.

    Returns:
        the number of folded norms; each is replaced by `nn.Identity`.

    Raises:
        TraceError: an operator of the network cannot be traced.
        ValueError: the network is in training mode.
    """
    if network.training:
        raise ValueError("batch norms can be folded in eval mode only; call network.eval() first")
    layers = dict(network.named_sublayers(include_self=True))
    width, height = size_wh or (-1, -1)
    pairs = _foldable(layers, trace(network, (-1, 3, height, width)))
    for conv, norm in pairs:
        _fold(layers[conv], layers[norm])
        parent, _, name = norm.rpartition(".")
        setattr(layers[parent], name, nn.Identity())
    # The Numba kernels for training do not support a bias in depthwise convolutions.
    for parameter in network.parameters():
        parameter.stop_gradient = True
    return len(pairs)


def _foldable(layers: dict[str, nn.Layer], program: Program) -> list[tuple[str, str]]:
    """Pairs of layer names: a convolution and the norm after it."""
    producers, consumers = program.producers(), program.consumers()
    owners = {w.name: n for n, x in layers.items() if (w := getattr(x, "weight", None)) is not None}

    def read_once(value: str) -> bool:
        return len(consumers[value]) == 1

    pairs = []
    for op in program.operators:
        if op.type != "batch_norm":
            continue
        (source,), (scale,) = op.inputs["X"], op.inputs["Scale"]
        made, values = producers.get(source), [source, scale]
        if made and made.type == "elementwise_add" and made.inputs["Y"][0] in program.tensors:
            (source,), (bias,) = made.inputs["X"], made.inputs["Y"]
            made, values = producers.get(source), [*values, source, bias]
        if made is None or made.type not in CONVOLUTIONS:
            continue
        (weight,) = made.inputs["Filter"]
        if weight in producers:
            (weight,) = producers[weight].inputs["X"]
        owner = owners.get(weight)
        if owner and all(map(read_once, [*values, weight])) and _can_scale_channels(layers[owner]):
            pairs.append((owner, owners[scale]))
    return pairs


def _can_scale_channels(conv: nn.Layer) -> bool:
    """Whether each output channel can be scaled independently."""
    if isinstance(conv, QuantizedConv2D):
        by_channel = isinstance(conv._fake_quant_weight, FakeQuantChannelWiseAbsMax)
        return by_channel and conv._weight_preprocess is None
    return isinstance(conv, nn.Conv2D)


@paddle.no_grad()
def _fold(conv: nn.Layer, norm: nn.Layer) -> None:
    gamma, beta, mean, variance = (
        x.numpy().astype(np.float64) for x in (norm.weight, norm.bias, norm._mean, norm._variance)
    )
    factor = gamma / np.sqrt(variance + norm._epsilon)
    weight = conv.weight.numpy() * factor[:, None, None, None]
    bias = beta - mean * factor
    if conv.bias is None:
        conv.bias = conv.create_parameter(list(bias.shape), is_bias=True)
    else:
        bias += conv.bias.numpy() * factor
    conv.weight.set_value(weight.astype(np.float32))
    conv.bias.set_value(bias.astype(np.float32))
