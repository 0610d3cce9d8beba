"""The Numba kernels match Paddle's operators, and run only where they are supported."""

import numpy as np
import paddle
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from paddle import nn
from paddle.nn import functional as F

from ppose.models import kernels
from ppose.models.kernels import DepthwiseConv2D, upsample, uses_cpu_kernels
from ppose.models.layers import conv2d

pytest.importorskip("numba")

shapes = st.tuples(st.integers(1, 3), st.integers(1, 5), st.integers(1, 19), st.integers(1, 19))


@settings(deadline=None, max_examples=60)
@given(shapes, st.integers(1, 3), st.integers(0, 2**32 - 1))
@example((1, 1, 1, 1), 2, 0)
@example((2, 3, 17, 18), 2, 0)
def test_depthwise_convolution_matches_paddle(shape, stride, seed):
    rng = np.random.default_rng(seed)
    layer = DepthwiseConv2D(shape[1], stride)
    layer.weight.set_value(rng.standard_normal(layer.weight.shape).astype(np.float32))
    x = variable(rng, shape)
    found = layer(x)
    expected = nn.Conv2D.forward(layer, x)
    close(found, expected)
    of_output = paddle.to_tensor(rng.standard_normal(expected.shape).astype(np.float32))
    inputs = [x, layer.weight]
    for gradient, other in zip(
        paddle.grad(found, inputs, of_output), paddle.grad(expected, inputs, of_output), strict=True
    ):
        close(gradient, other)


@settings(deadline=None, max_examples=60)
@given(shapes, st.integers(1, 8), st.integers(0, 2**32 - 1))
def test_upsampling_matches_paddle(shape, scale, seed):
    rng = np.random.default_rng(seed)
    x = variable(rng, shape)
    found = upsample(x, scale)
    expected = F.interpolate(x, scale_factor=scale)
    np.testing.assert_array_equal(found.numpy(), expected.numpy())
    of_output = paddle.to_tensor(rng.standard_normal(expected.shape).astype(np.float32))
    close(paddle.grad(found, x, of_output)[0], paddle.grad(expected, x, of_output)[0])


def test_non_contiguous_views():
    rng = np.random.default_rng(0)
    layer = DepthwiseConv2D(3)
    _, half = variable(rng, (2, 6, 5, 4)).chunk(2, axis=1)
    whole = paddle.to_tensor(half.numpy(), stop_gradient=False)
    np.testing.assert_array_equal(layer(half).numpy(), layer(whole).numpy())
    np.testing.assert_array_equal(upsample(half, 2).numpy(), upsample(whole, 2).numpy())


def test_results_do_not_depend_on_the_number_of_threads():
    import numba

    if numba.config.NUMBA_NUM_THREADS == 1:
        pytest.skip("one thread")
    rng = np.random.default_rng(0)
    layer = DepthwiseConv2D(7)
    x = variable(rng, (4, 7, 33, 21))

    def results() -> list[np.ndarray]:
        output = layer(x)
        return [t.numpy() for t in (output, *paddle.grad(output.square(), [x, layer.weight]))]

    one_thread = []
    for threads in (1, 2):
        numba.set_num_threads(threads)
        one_thread = one_thread or results()
    numba.set_num_threads(numba.config.NUMBA_NUM_THREADS)
    for found, expected in zip(results(), one_thread, strict=True):
        np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_nan_and_inf_affect_only_their_neighbours(value):
    layer = DepthwiseConv2D(1)
    x = np.zeros((1, 1, 7, 7), np.float32)
    x[0, 0, 3, 3] = value
    output = layer(paddle.to_tensor(x, stop_gradient=False)).numpy()
    finite = np.ones((7, 7), bool)
    finite[2:5, 2:5] = False
    np.testing.assert_array_equal(np.isfinite(output[0, 0]), finite)


@pytest.fixture
def calls(monkeypatch) -> list[str]:
    """Names of the kernels that ran."""
    found: list[str] = []
    for name in ("depthwise", "repeat"):
        run = getattr(kernels, name)

        def recorded(*arguments, name=name, run=run):
            found.append(name)
            return run(*arguments)

        monkeypatch.setattr(kernels, name, recorded)
    return found


def network() -> tuple[nn.Layer, paddle.Tensor]:
    class Small(nn.Layer):
        def __init__(self):
            super().__init__()
            self.depthwise = DepthwiseConv2D(2)

        def forward(self, x):
            return upsample(self.depthwise(x), 2)

    return Small(), paddle.rand([1, 2, 6, 6])


def test_kernels_run_in_training(calls):
    small, x = network()
    small(x)
    assert calls == ["depthwise", "repeat"]


def test_kernels_with_frozen_weights(calls):
    small, x = network()
    small.depthwise.weight.stop_gradient = True
    small(x)
    assert calls == []
    x.stop_gradient = False
    small(x).sum().backward()
    assert calls == ["depthwise", "repeat"]
    assert small.depthwise.weight.grad is None
    assert np.any(x.grad.numpy())


def test_kernels_without_a_gradient_for_the_input(calls):
    small, x = network()
    small(x).sum().backward()
    assert calls == ["depthwise", "repeat"]
    assert x.grad is None
    assert np.any(small.depthwise.weight.grad.numpy())


def test_kernels_do_not_run_under_no_grad(calls):
    small, x = network()
    with paddle.no_grad():
        small(x)
    assert calls == []


def test_kernels_do_not_run_in_a_static_graph(calls):
    small, x = network()
    expected = small(x).numpy()
    calls.clear()
    found = paddle.jit.to_static(small, full_graph=True)(x)
    assert calls == []
    np.testing.assert_allclose(found.numpy(), expected, atol=1e-6)


def test_kernels_do_not_run_without_numba(calls, monkeypatch):
    small, x = network()
    expected = small(x).numpy()
    calls.clear()
    monkeypatch.setattr(kernels, "numba", None)
    np.testing.assert_allclose(small(x).numpy(), expected, atol=1e-6)
    assert calls == []


def test_kernels_support_float32_only():
    x = paddle.rand([1, 2, 4, 4])
    x.stop_gradient = False
    assert uses_cpu_kernels(x)
    assert not uses_cpu_kernels(x.astype("float64"))
    assert not uses_cpu_kernels(x, x.astype("bfloat16"))


@pytest.mark.parametrize(
    ("arguments", "depthwise"),
    [
        ({"kernel": 3, "groups": 8}, True),
        ({"kernel": 3, "groups": 8, "stride": 2}, True),
        ({"kernel": 3, "groups": 8, "bias": True}, False),
        ({"kernel": 3, "groups": 8, "dilation": 2}, False),
        ({"kernel": 5, "groups": 8}, False),
        ({"kernel": 3, "groups": 4}, False),
    ],
)
def test_conv2d_uses_the_depthwise_convolution_where_possible(arguments, depthwise):
    layer = conv2d(8, 8, **arguments)
    assert isinstance(layer, DepthwiseConv2D) == depthwise
    assert [*layer.state_dict()] == (["weight", "bias"] if arguments.get("bias") else ["weight"])
    x = paddle.rand([1, 8, 9, 9])
    height = -(-9 // arguments.get("stride", 1))
    assert layer(x).shape == [1, 8, height, height]


def variable(rng: np.random.Generator, shape: tuple[int, ...]) -> paddle.Tensor:
    return paddle.to_tensor(rng.standard_normal(shape).astype(np.float32), stop_gradient=False)


def close(found: paddle.Tensor, expected: paddle.Tensor) -> None:
    size = max(1.0, float(expected.abs().max()))
    np.testing.assert_allclose(found.numpy(), expected.numpy(), rtol=0, atol=1e-5 * size)
