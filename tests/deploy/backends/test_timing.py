"""Random inputs and latency measurements."""

import numpy as np
import pytest
import tiny_two_input_model as two

from ppose.deploy.backends.open import open_session
from ppose.deploy.backends.session import Session, TensorInfo
from ppose.deploy.backends.timing import example_inputs, latencies, time_interleaved


class Shapes(Session):
    """A session with inputs only."""

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
        (TensorInfo("images", "uint8", (-1, 256, 192, 3)), (8, 8), (2, 256, 192, 3)),
        (TensorInfo("images", "uint8", (-1, -1, -1, 3)), (64, 32), (2, 32, 64, 3)),
        (TensorInfo("images", "uint8", (-1, -1, -1, 3)), None, (2, 256, 256, 3)),
        (TensorInfo("images", "float32", (-1, 3, -1, -1)), (64, 32), (2, 3, 32, 64)),
        (TensorInfo("images", "float32", (1, 3, 5, 7)), None, (1, 3, 5, 7)),
        (TensorInfo("x", "float32", (-1, 3, 3, 3)), None, (2, 3, 3, 3)),
        (TensorInfo("inside", "float32", (-1, 1, -1, -1)), (64, 32), (2, 1, 8, 16)),
        (TensorInfo("scale_factor", "float32", (-1, -1)), None, (2, 2)),
        (TensorInfo("n", "int64", ()), None, ()),
        (TensorInfo("row", "int64", (-1,)), None, (2,)),
    ],
)
def test_inputs_match_the_tensors(tensor, size_wh, shape):
    (array,) = example_inputs(Shapes(tensor), 2, size_wh)
    assert (array.dtype, array.shape) == (tensor.dtype, shape)
    assert tensor.accepts(array)
    (again,) = example_inputs(Shapes(tensor), 2, size_wh)
    np.testing.assert_array_equal(array, again)
    is_image = len(shape) == 4 and shape[1] != 1
    assert (len(np.unique(array)) > 10) == is_image


def test_im_shape_of_detectors():
    image = TensorInfo("image", "float32", (-1, 3, -1, -1))
    shapes = Shapes(TensorInfo("im_shape", "float32", (-1, 2)), image)
    sides, image_input = example_inputs(shapes, 2, (64, 32))
    np.testing.assert_array_equal(sides, [[32, 64], [32, 64]])
    assert image_input.shape == (2, 3, 32, 64)


def test_interleaved_timing():
    calls = []
    seconds = time_interleaved([lambda: calls.append("a"), lambda: calls.append("b")], 3, 2)
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


def test_latencies_of_an_unsupported_batch_size(tmp_path):
    two.write_onnx(tmp_path, shape=(1, 16, 24, 3))
    session = open_session(tmp_path, backend="onnxruntime")
    assert example_inputs(session, 1)[0].shape == (1, 16, 24, 3)
    with pytest.raises(ValueError, match="model.onnx: its batch size is 1, not 2"):
        latencies([session], 2)
