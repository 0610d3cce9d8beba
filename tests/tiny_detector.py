"""A detector that finds one person, who fills any image."""

import numpy as np
import onnx
from onnx import helper


def write_detector(folder):
    """A detector that finds one person, with the whole image as the box."""
    constants = {"zero": np.zeros(1), "box": [[[0, 0, 64, 64]]], "score": [[[0.9]]]}
    nodes = [
        helper.make_node("ReduceMean", ["image"], ["mean"], axes=[1, 2, 3], keepdims=0),
        helper.make_node("Mul", ["mean", "zero"], ["zeros"]),
        helper.make_node("Add", ["box", "zeros"], ["boxes"]),
        helper.make_node("Add", ["score", "zeros"], ["scores"]),
    ]
    shapes = {"image": (1, 3, 64, 64), "boxes": (1, 1, 4), "scores": (1, 1, 1)}
    image, *outputs = (
        helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, shape)
        for name, shape in shapes.items()
    )
    tensors = [
        onnx.numpy_helper.from_array(np.array(value, np.float32), name)
        for name, value in constants.items()
    ]
    graph = helper.make_graph(nodes, "person", [image], outputs, tensors)
    opset = helper.make_opsetid("", 17)
    model = helper.make_model(graph, opset_imports=[opset], ir_version=8)
    onnx.save(model, folder / "person.onnx")
    (folder / "detector.yml").write_text("mean: [0, 0, 0]\nstd: [1, 1, 1]\n")
    return folder
