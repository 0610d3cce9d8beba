"""Requirements on every backbone, and sums over scales."""

import copy
import re

import numpy as np
import paddle
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from paddle.static import InputSpec

from ppose.models.layers import sum_scales


def infer(network, images) -> np.ndarray:
    network.eval()
    with paddle.no_grad():
        return network(images).numpy()


@pytest.mark.parametrize(("height", "width"), [(96, 128), (160, 96), (32, 64)])
def test_output_has_a_quarter_of_the_input_size(small_backbone, height, width):
    assert (small_backbone.stride, small_backbone.size_multiple) == (4, 32)
    features = infer(small_backbone, paddle.zeros([1, 3, height, width]))
    assert features.shape == (1, small_backbone.out_channels, height // 4, width // 4)


@pytest.mark.parametrize("shape", [[1, 3, 100, 96], [1, 3, 96, 100], [1, 96, 96, 3], [3, 96, 96]])
def test_invalid_shapes_are_rejected(small_backbone, shape):
    message = f"expects images (N, 3, H, W) with H and W multiples of 32, found {shape}"
    with pytest.raises(ValueError, match=re.escape(message)):
        small_backbone(paddle.zeros(shape))


def test_invalid_shapes_are_rejected_at_export(small_backbone, tmp_path):
    spec = InputSpec([None, 3, 100, 96], "float32")
    with pytest.raises(ValueError, match=r"multiples of 32, found \[-1, 3, 100, 96\]"):
        paddle.jit.save(small_backbone, str(tmp_path / "network"), input_spec=[spec])


def test_a_saved_network_supports_dynamic_sizes(small_backbone, tmp_path):
    small_backbone.eval()
    spec = InputSpec([None, 3, None, None], "float32", name="images")
    paddle.jit.save(small_backbone, str(tmp_path / "network"), input_spec=[spec])
    loaded = paddle.jit.load(str(tmp_path / "network"))
    for shape in ([1, 3, 64, 64], [2, 3, 96, 32]):
        images = paddle.randn(shape)
        expected = infer(small_backbone, images)
        close(loaded(images).numpy(), expected)


@pytest.mark.parametrize(
    ("small_backbone", "full_graph"),
    [("HRNet", True), ("HRNet", False), ("Lite-HRNet", True)],
    indirect=["small_backbone"],
)
def test_static_graph_training_matches_eager_training(small_backbone, full_graph):
    images = paddle.randn([2, 3, 64, 96])
    other = copy.deepcopy(small_backbone)
    static = paddle.jit.to_static(other, full_graph=full_graph)
    for network in (small_backbone, static):
        network.train()
        network(images).square().mean().backward()
    state = other.state_dict()
    for name, tensor in small_backbone.state_dict().items():
        close(state[name].numpy(), tensor.numpy())
        if not tensor.stop_gradient:
            close(state[name].grad.numpy(), tensor.grad.numpy())


def test_a_deep_copy_has_its_own_weights(small_backbone):
    images = paddle.randn([1, 3, 64, 64])
    expected = infer(small_backbone, images)
    other = copy.deepcopy(small_backbone)
    with paddle.no_grad():
        for parameter in small_backbone.parameters():
            parameter.zero_()
    np.testing.assert_array_equal(infer(other, images), expected)


@settings(deadline=None)
@given(st.data(), st.integers(1, 4), st.integers(0, 2**32 - 1))
def test_sum_scales_is_the_sum_of_upsampled_maps(data, count, seed):
    target = data.draw(st.integers(0, count - 1))
    rng = np.random.default_rng(seed)
    halvings = [max(0, i - target) for i in range(count)]
    maps = [rng.standard_normal((2, 3, 16 >> h, 24 >> h)).astype(np.float32) for h in halvings]
    scales = [2**h for h in halvings]
    upsampled = [m.repeat(s, axis=2).repeat(s, axis=3) for m, s in zip(maps, scales, strict=True)]
    total = sum_scales([paddle.to_tensor(m) for m in maps], target)
    close(total.numpy(), np.sum(upsampled, axis=0))


def close(found: np.ndarray, expected: np.ndarray) -> None:
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5 * max(1, np.abs(expected).max()))
