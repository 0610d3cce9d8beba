"""A small model with two inputs and two outputs, in every format that the backends read."""

import numpy as np
import onnx
import openvino
import paddle
from onnx import TensorProto, helper, numpy_helper
from paddle.nn import functional as F

from ppose.export.pdmodel import trace

KERNEL = np.random.default_rng(3).normal(0, 0.3, (4, 3, 3, 3)).astype(np.float32)


class TwoInputModel(paddle.nn.Layer):
    """`image` (N, H, W, 3) uint8 and `factor` (N, 2) float32 → maps (N, 4, H, W), means (N,)."""

    def __init__(self, kernel=KERNEL):
        super().__init__()
        self.kernel = self.create_parameter(kernel.shape)
        self.kernel.set_value(kernel)

    def forward(self, image, factor):
        x = image.astype("float32").transpose([0, 3, 1, 2]) / 255
        maps = F.relu(F.conv2d(x, self.kernel, padding=1))
        maps = maps + F.interpolate(F.max_pool2d(maps, 2, 2), scale_factor=2)
        maps = maps * factor.mean(1).reshape([-1, 1, 1, 1])
        return maps, maps.mean([1, 2, 3])


def expected(image, factor):
    """Outputs of the model, as arrays."""
    return [t.numpy() for t in TwoInputModel()(paddle.to_tensor(image), paddle.to_tensor(factor))]


def inputs(count=2, size_wh=(24, 16), seed=0):
    """Random inputs of the model."""
    rng = np.random.default_rng(seed)
    image = rng.integers(0, 256, (count, size_wh[1], size_wh[0], 3), np.uint8)
    return [image, rng.random((count, 2), np.float32) + 0.5]


class _NamedOutputs(TwoInputModel):
    def forward(self, image, factor):
        return dict(zip(("maps", "means"), super().forward(image, factor), strict=True))


def write_pdmodel(folder, name="model", kernel=KERNEL):
    """`.pdmodel` and `.pdiparams`."""
    given = {"image": ((-1, -1, -1, 3), "uint8"), "factor": ((-1, 2), "float32")}
    path = folder / f"{name}.pdmodel"
    trace(_NamedOutputs(kernel).eval(), given).save(path, path.with_suffix(".pdiparams"))
    return path


def write_json(folder, name="model"):
    """`.json` and `.pdiparams`, as Paddle 3 writes them."""
    network = paddle.jit.to_static(TwoInputModel().eval(), full_graph=True)
    spec = paddle.static.InputSpec
    given = [spec([None, None, None, 3], "uint8", "image"), spec([None, 2], "float32", "factor")]
    paddle.jit.save(network, str(folder / name), input_spec=given)
    return folder / f"{name}.json"


def write_onnx(folder, name="model", kernel=KERNEL, shape=("n", "h", "w", 3), weights=None):
    """`.onnx`; inputs and outputs are named as in `TwoInputModel`."""
    node = helper.make_node
    nearest = {
        **{"mode": "nearest", "coordinate_transformation_mode": "asymmetric"},
        "nearest_mode": "floor",
    }
    nodes = [
        node("Cast", ["image"], ["float"], to=TensorProto.FLOAT),
        node("Transpose", ["float"], ["turned"], perm=[0, 3, 1, 2]),
        node("Div", ["turned", "white"], ["x"]),
        node("Conv", ["x", "kernel"], ["sums"], pads=[1, 1, 1, 1]),
        node("Relu", ["sums"], ["high"]),
        node("MaxPool", ["high"], ["half"], kernel_shape=[2, 2], strides=[2, 2]),
        node("Resize", ["half", "", "double"], ["low"], **nearest),
        node("Add", ["high", "low"], ["positive"]),
        node("ReduceMean", ["factor"], ["factors"], axes=[1], keepdims=0),
        node("Reshape", ["factors", "form"], ["column"]),
        node("Mul", ["positive", "column"], ["maps"]),
        node("ReduceMean", ["maps"], ["means"], axes=[1, 2, 3], keepdims=0),
    ]
    constants = {
        "white": np.float32(255),
        "kernel": kernel,
        "form": np.array([-1, 1, 1, 1]),
        "double": np.array([1, 1, 2, 2], np.float32),
    }
    value = helper.make_tensor_value_info
    graph = helper.make_graph(
        nodes,
        "two_inputs",
        [
            value("image", TensorProto.UINT8, shape),
            value("factor", TensorProto.FLOAT, [shape[0], 2]),
        ],
        [
            value("maps", TensorProto.FLOAT, [shape[0], 4, shape[1], shape[2]]),
            value("means", TensorProto.FLOAT, [shape[0]]),
        ],
        [numpy_helper.from_array(array, name) for name, array in constants.items()],
    )
    return _saved(graph, folder / f"{name}.onnx", weights)


def write_xml(folder, name="model"):
    """`.xml` and `.bin`."""
    path = folder / f"{name}.xml"
    onnx_path = write_onnx(folder, "of_openvino")
    openvino.save_model(openvino.Core().read_model(onnx_path), path, compress_to_fp16=False)
    onnx_path.unlink()
    return path


WRITERS = {
    "pdmodel": write_pdmodel,
    "json": write_json,
    "onnx": write_onnx,
    "xml": write_xml,
}


def write_int8_onnx(folder):
    """`.onnx` of a quantized convolution: x (N, 3, H, W) → maps (N, 4, H, W)."""
    scale = np.abs(KERNEL).max((1, 2, 3)) / 127
    integers = np.rint(KERNEL / scale[:, None, None, None]).astype(np.int8)
    node = helper.make_node
    nodes = [
        node("QuantizeLinear", ["x", "step", "zero"], ["xq"]),
        node("DequantizeLinear", ["xq", "step", "zero"], ["xd"]),
        node("DequantizeLinear", ["kernel", "scale", "zeros"], ["wd"], axis=0),
        node("Conv", ["xd", "wd"], ["maps"], pads=[1, 1, 1, 1]),
    ]
    constants = {
        "step": np.float32(1 / 32),
        "zero": np.uint8(128),
        "kernel": integers,
        "scale": scale,
        "zeros": np.zeros(4, np.int8),
    }
    value = helper.make_tensor_value_info
    graph = helper.make_graph(
        nodes,
        "int8",
        [value("x", TensorProto.FLOAT, ["n", 3, 16, 16])],
        [value("maps", TensorProto.FLOAT, ["n", 4, 16, 16])],
        [numpy_helper.from_array(np.asarray(array), name) for name, array in constants.items()],
    )
    return _saved(graph, folder / "model.onnx")


def _saved(graph, path, weights=None):
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    onnx.checker.check_model(model)
    external = {"save_as_external_data": True, "location": weights, "size_threshold": 200}
    onnx.save(model, path, **(external if weights else {}))
    return path
