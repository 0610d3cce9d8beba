"""A network in a folder that Paddle Inference runs, float or int8.

The int8 form (`ppose.export.int8graph`) is that of PaddleSlim's ONNX-like export. TensorRT runs
the same folder on a GPU: `Config.enable_use_gpu(256, 0)`, then
`enable_tensorrt_engine(workspace_size=1 << 30, max_batch_size=8, min_subgraph_size=3,
precision_mode=PrecisionType.Int8, use_static=False, use_calib_mode=False)`: the ranges stand in the
model, so nothing is calibrated. With an open batch, `set_trt_dynamic_shape_info` wants the least,
largest and usual shape of `images`.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import paddle
from paddle import nn
from paddle.nn.quant.quant_layers import FakeQuantChannelWiseAbsMax, QuantizedConv2D

from ppose.export.int8graph import is_fake_quantized, to_int8
from ppose.export.pdmodel import CONVOLUTIONS, Program, trace
from ppose.files import remove_leftovers, whole_file, write_json
from ppose.inference import DESCRIPTION, FORM, PROGRAM, WEIGHTS, file_hash
from ppose.models.network import Network


@dataclass(frozen=True)
class Exported:
    """What `export_network` wrote.

    Attributes:
        folder: where.
        size: bytes of program and weights.
        folded: batch norms taken into convolutions.
        int8: convolutions that compute in int8; 0 in a float export.
    """

    folder: Path
    size: int
    folded: int
    int8: int


def export_network(
    network: Network,
    folder: str | Path,
    size_wh: tuple[int, int] | None,
    *,
    batch: int | None = None,
) -> Exported:
    """Writes a network for `ppose.inference`: float, or int8 if it is quantized.

    Batch norms are folded first. Other files of the folder stay; of an older export there, each
    file is replaced as a whole, and a mixture of both is refused when it is read.

    Args:
        network: stays as it is.
        folder: gets `model.pdmodel`, `model.pdiparams` and `network.json`.
        size_wh: of the inputs; None leaves it open, for bottom-up networks.
        batch: number of inputs in a batch; None leaves it open.

    Raises:
        TraceError: an operator of the network cannot be written.
        ValueError: a size that the network does not take.
        OSError: the folder cannot be written.
    """
    folder = Path(folder)
    width, height = size_wh or (-1, -1)
    shape = (-1 if batch is None else batch, 3, height, width)
    made = copy.deepcopy(network).eval()
    folded = fold_norms(made, size_wh)
    program = trace(made, shape)
    int8 = to_int8(program) if is_fake_quantized(program) else 0
    remove_leftovers(folder)
    files = folder / PROGRAM, folder / WEIGHTS
    with whole_file(files[0]) as first, whole_file(files[1]) as second:
        program.save(first, second)
    description = {
        "form": FORM,
        "paddle": paddle.__version__,
        "network": type(network).__name__,
        "input": list(shape),
        "stride": network.stride,
        "size_multiple": network.size_multiple,
        "channels": network.channels,
        "int8": int8,
        "depthwise": any(op.kind == "depthwise_conv2d" for op in program.operators),
        "sha256": {path.name: file_hash(path) for path in files},
    }
    write_json(folder / DESCRIPTION, description)
    return Exported(folder, sum(path.stat().st_size for path in files), folded, int8)


def fold_norms(network: nn.Layer, size_wh: tuple[int, int] | None) -> int:
    """Takes batch norms into the convolutions before them, in place.

    Only where a convolution's output goes into the norm and nowhere else. A quantized convolution
    with a scale for each output channel keeps its integers; one with a single scale keeps its norm.

    Args:
        network: in eval mode; its parameters take no gradient any more.
        size_wh: of an input; None for any.

    Returns:
        norms folded; `nn.Identity` takes the place of each.

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
    # The kernels for training know no bias of a depthwise convolution.
    for parameter in network.parameters():
        parameter.stop_gradient = True
    return len(pairs)


def _foldable(layers: dict[str, nn.Layer], program: Program) -> list[tuple[str, str]]:
    """Names of convolutions and of the norms behind them."""
    makers, readers = program.makers(), program.readers()
    owners = {w.name: n for n, x in layers.items() if (w := getattr(x, "weight", None)) is not None}

    def alone(value: str) -> bool:
        return len(readers[value]) == 1

    pairs = []
    for op in program.operators:
        if op.kind != "batch_norm":
            continue
        (source,), (scale,) = op.inputs["X"], op.inputs["Scale"]
        made, values = makers.get(source), [source, scale]
        if made and made.kind == "elementwise_add" and made.inputs["Y"][0] in program.tensors:
            (source,), (bias,) = made.inputs["X"], made.inputs["Y"]
            made, values = makers.get(source), [*values, source, bias]
        if made is None or made.kind not in CONVOLUTIONS:
            continue
        (weight,) = made.inputs["Filter"]
        if weight in makers:
            (weight,) = makers[weight].inputs["X"]
        owner = owners.get(weight)
        if owner and all(map(alone, [*values, weight])) and _scales_freely(layers[owner]):
            pairs.append((owner, owners[scale]))
    return pairs


def _scales_freely(conv: nn.Layer) -> bool:
    """Whether each output channel may get a factor of its own."""
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
