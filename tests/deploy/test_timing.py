"""Inputs that fit, and models by turns."""

import numpy as np
import pytest
import two

from ppose.deploy.session import Session, Tensor, open_session
from ppose.deploy.timing import latencies, some_inputs, take_turns


class Shapes(Session):
    """A session of which only the inputs are read."""

    backend = "none"

    def __init__(self, *inputs):
        self.inputs = inputs

    def _load(self):
        raise NotImplementedError

    def _run(self, arrays):
        raise NotImplementedError


@pytest.mark.parametrize(
    ("tensor", "size_wh", "shape"),
    [
        (Tensor("images", "uint8", (-1, 256, 192, 3)), (8, 8), (2, 256, 192, 3)),
        (Tensor("images", "uint8", (-1, -1, -1, 3)), (64, 32), (2, 32, 64, 3)),
        (Tensor("images", "uint8", (-1, -1, -1, 3)), None, (2, 256, 256, 3)),
        (Tensor("images", "float32", (-1, 3, -1, -1)), (64, 32), (2, 3, 32, 64)),
        (Tensor("images", "float32", (1, 3, 5, 7)), None, (1, 3, 5, 7)),
        (Tensor("x", "float32", (-1, 3, 3, 3)), None, (2, 3, 3, 3)),
        (Tensor("inside", "float32", (-1, 1, -1, -1)), (64, 32), (2, 1, 8, 16)),
        (Tensor("scale_factor", "float32", (-1, -1)), None, (2, 2)),
        (Tensor("n", "int64", ()), None, ()),
        (Tensor("row", "int64", (-1,)), None, (2,)),
    ],
)
def test_inputs_fit(tensor, size_wh, shape):
    (array,) = some_inputs(Shapes(tensor), 2, size_wh)
    assert (array.dtype, array.shape) == (tensor.dtype, shape)
    assert tensor.takes(array)
    (again,) = some_inputs(Shapes(tensor), 2, size_wh)
    np.testing.assert_array_equal(array, again)
    picture = len(shape) == 4 and shape[1] != 1
    assert (len(np.unique(array)) > 10) == picture


def test_detectors_are_told_the_size():
    image = Tensor("image", "float32", (-1, 3, -1, -1))
    shapes = Shapes(Tensor("im_shape", "float32", (-1, 2)), image)
    sides, picture = some_inputs(shapes, 2, (64, 32))
    np.testing.assert_array_equal(sides, [[32, 64], [32, 64]])
    assert picture.shape == (2, 3, 32, 64)


def test_turns():
    calls = []
    seconds = take_turns([lambda: calls.append("a"), lambda: calls.append("b")], 3, 2)
    assert calls == ["a", "b"] * 5
    assert seconds.shape == (3, 2)
    assert (seconds > 0).all()


def test_latencies(tmp_path):
    two.write_onnx(tmp_path, shape=("n", 16, 24, 3))
    sessions = [open_session(tmp_path, backend=b, threads=1) for b in ("onnxruntime", "openvino")]
    found = latencies(sessions, 2, runs=5, warmup=1)
    assert len(found) == 2
    for p50, p95 in found:
        assert 0 < p50 <= p95


def test_latencies_of_a_batch_that_is_not_taken(tmp_path):
    two.write_onnx(tmp_path, shape=(1, 16, 24, 3))
    session = open_session(tmp_path, backend="onnxruntime")
    assert some_inputs(session, 1)[0].shape == (1, 16, 24, 3)
    with pytest.raises(ValueError, match="model.onnx: takes batches of 1, not of 2"):
        latencies([session], 2)
