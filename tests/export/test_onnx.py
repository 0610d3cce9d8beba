"""ONNX export matches the network, in ONNX Runtime and in OpenVINO."""

import numpy as np
import onnx
import paddle
import pytest
from conftest import ROOT
from golden.weights_by_name import fill
from paddle import nn
from paddle.nn import functional as F
from tiny_branching_network import (
    SIZE_WH,
    branching_network,
    error,
    outputs,
    quantized,
    random_images,
)

from ppose.codecs.part_layout import SIMPLEPOSE
from ppose.compression.quantize import quantized_layers
from ppose.deploy.backends.open import open_session
from ppose.experiment import Experiment
from ppose.export.fold import fold_batch_norms
from ppose.export.int8_program import to_int8
from ppose.export.onnx import OPSET, to_onnx, write_onnx
from ppose.export.pdmodel import TraceError, trace
from ppose.export.wrapper import ExportWrapper, input_specs
from ppose.models import IMHN, HRNet, LiteHRNet, PoseNet
from ppose.structures.skeleton import COCO17

RUNTIMES = ("onnxruntime", "openvino")
NETWORKS = {
    "HRNet": lambda: PoseNet(
        HRNet(4, (1, 1, 1), blocks=1, stem_width=8, stage1_width=4, stage1_blocks=1), COCO17
    ),
    "lite_18": lambda: PoseNet(LiteHRNet("lite_18"), COCO17),
    "naive": lambda: PoseNet(LiteHRNet("naive"), COCO17),
    "IMHN": lambda: IMHN(SIMPLEPOSE, stacks=2, width=16, increase=2),
    "branching": branching_network,
}


def made(name):
    network = NETWORKS[name]()
    fill(network)
    return network.eval()


def run(program, path, runtime, *arrays, precision="fp32"):
    write_onnx(program, path)
    onnx.checker.check_model(onnx.load(path), full_check=True)
    session = open_session(path, backend=runtime, precision=precision, threads=1)
    return session.run(*arrays)


@pytest.mark.parametrize("name", NETWORKS)
def test_a_float_network(name, tmp_path):
    network = made(name)
    images = random_images(2, (64, 64))
    expected = outputs(network, images)
    if name != "HRNet":  # keeps its batch norms, to test them
        fold_batch_norms(network, (64, 64))
    program = trace(network, (-1, 3, 64, 64))
    for runtime in RUNTIMES:
        (found,) = run(program, tmp_path / "model.onnx", runtime, images)
        assert error(found, expected) < 1e-4, runtime


def test_dynamic_batch_height_and_width(tmp_path):
    network = made("IMHN")
    write_onnx(trace(network, (-1, 3, -1, -1)), tmp_path / "model.onnx")
    for runtime in RUNTIMES:
        session = open_session(tmp_path / "model.onnx", backend=runtime, threads=1)
        assert session.inputs[0].shape == (-1, 3, -1, -1)
        for count, size_wh in ((1, (64, 64)), (2, (128, 64))):
            images = random_images(count, size_wh)
            assert error(session.run(images)[0], outputs(network, images)) < 1e-4


@pytest.mark.parametrize("weight_scale", ["channel", "tensor"])
def test_int8(weight_scale, tmp_path):
    network = quantized(branching_network(), weight_scale=weight_scale)
    expected = outputs(network, random_images())
    fold_batch_norms(network, SIZE_WH)
    program = trace(network, (-1, 3, *SIZE_WH[::-1]))
    convolutions = to_int8(program)
    for runtime in RUNTIMES:
        (found,) = run(program, tmp_path / "model.onnx", runtime, random_images(), precision="int8")
        assert error(found, expected) < 0.02
        assert np.abs(found - expected).mean() < 0.0006 * np.ptp(expected)
    nodes = onnx.load(tmp_path / "model.onnx").graph.node
    from_int8 = {n.output[0]: n.input[0] for n in nodes if n.op_type == "DequantizeLinear"}
    convolved = [node for node in nodes if node.op_type == "Conv"]
    assert len(convolved) == convolutions
    assert all(name in from_int8 for node in convolved for name in node.input[:2])


def test_int8_weights_are_stored_as_int8(tmp_path):
    network = quantized(branching_network())
    program = trace(network, (-1, 3, *SIZE_WH[::-1]))
    to_int8(program)
    tensors = to_onnx(program).graph.initializer
    number = sum(x.weight.size for x in quantized_layers(network).values() if x.weight.ndim == 4)
    stored = [t for t in tensors if t.data_type == onnx.TensorProto.INT8 and len(t.dims) == 4]
    assert number <= sum(int(np.prod(t.dims)) for t in stored)


def test_a_channel_of_zero_weights_keeps_its_bias(tmp_path):
    network = branching_network()
    weight = network.last.weight.numpy()
    weight[2] = 0
    network.last.weight.set_value(weight)
    quantized(network)
    expected = outputs(network, random_images())
    program = trace(network, (-1, 3, *SIZE_WH[::-1]))
    to_int8(program)
    for runtime in RUNTIMES:
        (found,) = run(program, tmp_path / "model.onnx", runtime, random_images(), precision="int8")
        np.testing.assert_allclose(found[:, 2], expected[:, 2], atol=0.02 * np.ptp(expected))


@pytest.mark.parametrize("config", ["quickstart", "imhn_quickstart"])
def test_export_wrapper_with_peaks(config, tmp_path):
    experiment = Experiment.from_file(ROOT / "configs" / f"{config}.yml")
    codec, network = experiment.codec, experiment.model.eval()
    fill(network)
    layer = ExportWrapper(network, experiment.normalize, codec).eval()
    program = trace(layer, input_specs(codec, None, True))
    width, height = codec.size_wh if codec.uses_boxes else (128, 64)
    rng = np.random.default_rng(0)
    arrays = [rng.integers(0, 256, (2, height, width, 3), np.uint8)]
    if not codec.uses_boxes:
        arrays.append(np.ones((2, 1, height // 4, width // 4), np.float32))
    with paddle.no_grad():
        expected = {k: v.numpy() for k, v in layer(*map(paddle.to_tensor, arrays)).items()}
    # Where there are fewer peaks than requested, the cell is arbitrary.
    real = expected["height"] > -1 if "height" in expected else np.ones(2, bool)
    for runtime in RUNTIMES:
        found = run(program, tmp_path / "model.onnx", runtime, *arrays)
        for (name, wanted), array in zip(expected.items(), found, strict=True):
            assert array.dtype == wanted.dtype
            if name == "limbs":
                np.testing.assert_allclose(array, wanted, atol=1e-5)
            else:
                np.testing.assert_allclose(array[real], wanted[real], atol=1e-4)


def layer(function):
    class Made(nn.Layer):
        def forward(self, x):
            return function(x)

    return Made()


STEPS = {
    "split by sizes": lambda x: paddle.concat(x.split([2, 1, 3], 1)[::-1], 1),
    "pools": lambda x: F.avg_pool2d(x, 3, 2, 1) + F.max_pool2d(x, 3, 2, 1),
    "global pool": lambda x: x - F.adaptive_avg_pool2d(x, 1),
    "pool with count_include_pad": lambda x: F.avg_pool2d(x, 3, 2, 1, exclusive=False),
    "pool with ceil_mode": lambda x: F.max_pool2d(x, 3, 2, ceil_mode=True),
    "nearest": lambda x: F.interpolate(x, scale_factor=3),
    "bilinear": lambda x: F.interpolate(x, scale_factor=2, mode="bilinear"),
    "bilinear, align_corners": lambda x: F.interpolate(
        x, scale_factor=2, mode="bilinear", align_corners=True
    ),
    "bilinear, align_mode": lambda x: F.interpolate(
        x, scale_factor=2, mode="bilinear", align_mode=1
    ),
    "scale, then bias": lambda x: paddle.scale(x, 3.0, 0.5),
    "bias, then scale": lambda x: paddle.scale(x, 3.0, 0.5, bias_after_scale=False),
    "no scale": lambda x: paddle.scale(x, 1.0, 0.0),
    "axes": lambda x: x.transpose([0, 2, 3, 1]).flatten(1, 2).unsqueeze(1).squeeze(1),
    "shapes": lambda x: x.reshape([0, 2, 3, -1]).flatten(2),
    "slices": lambda x: x[:, 1, 2:-1, ::1],
    "reductions": lambda x: x.mean([2, 3]) + x.max(axis=[2, 3]) - x.min(axis=[2, 3]),
    "top k": lambda x: paddle.topk(x.flatten(2), 3, axis=2)[0],
    "where": lambda x: paddle.where(x > 2 * x, x, paddle.where(x == x, x / (x * x + 1), x)),
    "comparisons": lambda x: paddle.where(
        x >= 0.5 * x, paddle.where(x < 3 * x, x, -x), paddle.where(x <= -x, 2 * x, x)
    ),
    "padding": lambda x: F.pad(x, [1, 2, 3, 4], "constant", -2.0),
    "activations": lambda x: F.relu(x) + F.leaky_relu(x, 0.3) * F.sigmoid(x),
}


@pytest.mark.parametrize("name", STEPS)
def test_operators(name, tmp_path):
    network = layer(STEPS[name])
    images = np.random.default_rng(0).standard_normal((2, 6, 7, 9)).astype(np.float32)
    program = trace(network, (-1, 6, 7, 9))
    (found,) = run(program, tmp_path / "model.onnx", "onnxruntime", images)
    np.testing.assert_allclose(found, outputs(network, images), atol=1e-5)


def test_flatten_with_dynamic_sizes(tmp_path):
    network = layer(lambda x: x.unsqueeze(2).flatten(1, 2))
    program = trace(network, (-1, 6, -1, -1))
    images = random_images(2, (16, 24)).repeat(2, 1)
    (found,) = run(program, tmp_path / "model.onnx", "onnxruntime", images)
    np.testing.assert_array_equal(found, images)


def test_unsupported_operators_are_reported():
    with pytest.raises(TraceError, match="pool2d: adaptive pooling to"):
        to_onnx(trace(layer(lambda x: F.adaptive_avg_pool2d(x, 3)), (1, 3, 8, 8)))
    with pytest.raises(TraceError, match="cumsum: converting this .* is not supported"):
        to_onnx(trace(layer(lambda x: paddle.cumsum(x, 1)), (1, 3, 8, 8)))


def test_export_is_deterministic(tmp_path):
    network = branching_network()
    first, second = (to_onnx(trace(network, (-1, 3, 64, 48))) for _ in range(2))
    again = to_onnx(trace(branching_network(), (-1, 3, 64, 48)))
    for model in (second, again):
        assert model.SerializeToString(deterministic=True) == first.SerializeToString(
            deterministic=True
        )
    assert [o.version for o in first.opset_import] == [OPSET]
    assert b".py" not in first.SerializeToString()


def test_a_failed_export_keeps_the_file(tmp_path):
    path = tmp_path / "model.onnx"
    path.write_bytes(b"kept")
    with pytest.raises(TraceError):
        write_onnx(trace(layer(lambda x: paddle.cumsum(x, 1)), (1, 3, 8, 8)), path)
    assert path.read_bytes() == b"kept"
