"""Quantized layers: int8 arithmetic, training, clipping, copying and loading."""

import copy

import numpy as np
import paddle
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from paddle import nn
from tiny_quantized_networks import STEPS, Small, Training, images, trained

from ppose.compression.calibrate import calibrate
from ppose.compression.pact import PACT
from ppose.compression.quantize import (
    Quantization,
    SwitchedDepthwiseConv2D,
    quantizable_layers,
    quantized_layers,
    set_scale,
    update_scales,
)
from ppose.config import ConfigError, build
from ppose.models.kernels import DepthwiseConv2D
from ppose.optim.ema import MovingAverage
from ppose.optim.optimizers import SGD, Adam, AdamW
from ppose.weights.tensor_names import float_names, is_quantized


def arrays_of(network):
    return {name: tensor.numpy().copy() for name, tensor in network.state_dict().items()}


def layer_of(float_layer, x, **settings):
    """A float layer, and a copy that is quantized and calibrated on x."""
    network = nn.Sequential(float_layer)
    quantized = Quantization(**settings).apply(copy.deepcopy(network))
    calibrate(quantized, [x], 1, "max")
    quantized.eval()
    return network[0], quantized[0]


KINDS = {
    "plain": lambda: (nn.Conv2D(6, 8, 3, padding=1), 4),
    "pointwise": lambda: (nn.Conv2D(6, 8, 1, bias_attr=False), 4),
    "strided": lambda: (nn.Conv2D(6, 4, 3, stride=2, padding=1), 4),
    "dilated": lambda: (nn.Conv2D(6, 4, 3, padding=2, dilation=2), 4),
    "grouped": lambda: (nn.Conv2D(6, 4, 3, padding=1, groups=2), 4),
    "depthwise": lambda: (DepthwiseConv2D(6), 4),
    "strided depthwise": lambda: (DepthwiseConv2D(6, stride=2), 4),
    "linear": lambda: (nn.Linear(6, 5), 2),
}


@pytest.fixture(params=KINDS)
def kind(request):
    paddle.seed(3)
    layer, dimensions = KINDS[request.param]()
    layer.weight.set_value(paddle.randn(layer.weight.shape) * 0.3)
    return layer, paddle.randn([2, 6, 9, 8][:dimensions])


def on_grid(array, scale):
    """An array rounded to 255 levels in steps of scale/127, halves away from 0."""
    steps = np.clip(array / scale, -1, 1) * 127
    return np.sign(steps) * np.floor(np.abs(steps) + 0.5) * scale / 127


def own_scales(weight, of_linear, per_channel=True):
    axes = tuple(range(weight.ndim))
    kept = (axes[-1] if of_linear else 0,) if per_channel else ()
    return np.abs(weight).max(tuple(a for a in axes if a not in kept), keepdims=True)


@pytest.mark.parametrize("weight_scale", ["channel", "tensor"])
def test_a_layer_computes_with_integers_times_scales(kind, weight_scale):
    layer, x = kind
    plain, quantized = layer_of(layer, x, weight_scale=weight_scale)
    linear = isinstance(layer, nn.Linear)
    weight = plain.weight.numpy()
    scales = own_scales(weight, linear, weight_scale == "channel")
    x_grid = paddle.to_tensor(on_grid(x.numpy(), np.abs(x.numpy()).max()))
    plain.weight.set_value(on_grid(weight, scales))
    np.testing.assert_allclose(quantized(x), plain(x_grid), atol=2e-5)
    assert quantized._fake_quant_weight._scale.size == (
        1 if weight_scale == "tensor" else weight.shape[-1 if linear else 0]
    )
    found = quantized._fake_quant_weight(quantized.weight).numpy() / scales * 127
    np.testing.assert_allclose(found, np.round(found), atol=1e-4)
    assert np.abs(found).max() == pytest.approx(127)


def test_a_disabled_layer_equals_the_float_one(kind):
    layer, x = kind
    plain, quantized = layer_of(layer, x)
    with paddle.no_grad():
        assert not np.array_equal(quantized(x), plain(x))
        quantized.enabled = False
        np.testing.assert_array_equal(quantized(x), plain(x))


def test_training_mode_equals_eval_mode_and_has_gradients(kind):
    layer, x = kind
    _, quantized = layer_of(layer, x)
    x.stop_gradient = False
    expected = quantized(x).numpy()
    quantized.train()
    found = quantized(x)
    # On a CPU, depthwise layers use another kernel in training.
    np.testing.assert_allclose(found, expected, atol=2e-5)
    found.square().sum().backward()
    for tensor in (x, quantized.weight):
        assert tensor.grad.abs().max() > 0


def test_gradients_equal_those_of_the_rounded_float_layer(kind):
    layer, x = kind
    plain, quantized = layer_of(layer, x)
    quantized.train()
    x_scale, linear = np.abs(x.numpy()).max(), isinstance(layer, nn.Linear)
    x_grid = paddle.to_tensor(on_grid(x.numpy(), x_scale), stop_gradient=False)
    plain.weight.set_value(on_grid(plain.weight.numpy(), own_scales(plain.weight.numpy(), linear)))
    x.stop_gradient = False
    for one, values in ((plain, x_grid), (quantized, x)):
        output = one(values)
        (
            output * paddle.arange(output.size, dtype="float32").reshape(output.shape)
        ).mean().backward()
    np.testing.assert_allclose(x.grad, x_grid.grad, rtol=1e-3, atol=1e-3)
    np.testing.assert_allclose(quantized.weight.grad, plain.weight.grad, rtol=1e-3, atol=1e-3)


def test_float_tensors_keep_their_names():
    network = Small()
    before = arrays_of(network)
    Quantization().apply(network)
    after = arrays_of(network)
    assert float_names(after) == [name for name in after if name in before]
    assert before.keys() == set(float_names(after))
    assert is_quantized(after)
    assert not is_quantized(before)
    for name, array in before.items():
        np.testing.assert_array_equal(after[name], array)


def test_depthwise_convolutions_keep_their_fast_kernel():
    network = Quantization().apply(Small())
    fast = [n for n, x in quantized_layers(network).items() if type(x) is SwitchedDepthwiseConv2D]
    assert fast == ["depthwise"]


def test_excluded_layers_are_not_quantized():
    network = Small()
    kept = network.first
    Quantization(exclude=["first", r"squeeze\.1"]).apply(network)
    assert network.first is kept
    assert set(quantized_layers(network)) == set(quantizable_layers(Small())) - {
        "first",
        "squeeze.1",
    }


@pytest.mark.parametrize(
    ("exclude", "message"),
    [
        (["frist"], r"quantize\.exclude: .*'frist'; did you mean 'first'"),
        (["("], r"quantize\.exclude: '\(' is not a regular expression"),
        (["."], r"nothing of the network is left to quantize: \['\.'\] exclude all"),
    ],
)
def test_wrong_patterns_are_errors(exclude, message):
    network = Small()
    with pytest.raises(ConfigError, match=message):
        Quantization(exclude=exclude).apply(network)
    assert not quantized_layers(network)


def test_quantizing_twice_or_nothing_is_an_error():
    network = Quantization().apply(Small())
    with pytest.raises(ConfigError, match="already quantized"):
        Quantization().apply(network)
    with pytest.raises(ConfigError, match="no convolution or linear layer"):
        Quantization().apply(nn.Sequential(nn.ReLU()))


@pytest.mark.parametrize(
    ("argument", "value"),
    [
        ("clip_lr_factor", 0.0),
        ("clip_decay", -1.0),
        ("moving_rate", 1.0),
        ("calibration_batches", 0),
    ],
)
def test_an_argument_out_of_range_is_an_error_with_its_path(argument, value):
    node = {"type": "Quantization", argument: value}
    with pytest.raises(
        ConfigError, match=rf"quantize.{argument}: expected .* found (int|float) {value}"
    ):
        build(node, Quantization, "quantize")


@pytest.mark.parametrize("optimizer", [Adam, AdamW, SGD])
def test_weights_and_clipping_values_are_trained(optimizer):
    network, before = trained(optimizer(lr=1e-2), clip_decay=1e-3)
    after = arrays_of(network)
    for name in quantized_layers(network):
        for own in ("weight", "_act_preprocess.alpha"):
            assert (before[f"{name}.{own}"] != after[f"{name}.{own}"]).any(), (name, own)


@pytest.mark.parametrize("optimizer", [Adam, AdamW, SGD])
def test_clipping_values_have_their_own_learning_rate(optimizer):
    moved = {}
    for factor in (1.0, 10.0):
        network, before = trained(
            optimizer(lr=1e-4), 1, clip_lr_factor=factor, clip_decay=1.0, calibration="max"
        )
        after = arrays_of(network)
        moved[factor] = {name: after[name] - before[name] for name in before}
    for name in moved[1.0]:
        if name.endswith("alpha"):
            assert (moved[1.0][name] < 0).all()
            np.testing.assert_allclose(moved[10.0][name], 10 * moved[1.0][name], rtol=1e-2)
        elif name.endswith("weight"):
            np.testing.assert_array_equal(moved[10.0][name], moved[1.0][name])


@pytest.mark.parametrize("weight_decay", [0.0, 0.01])
def test_clipping_values_have_their_own_decay(weight_decay):
    # Nothing is clipped, so only the decay changes them.
    optimizer = SGD(lr=0.1, weight_decay=weight_decay, momentum=0.0)
    network, _ = trained(optimizer, 1, clip_decay=0.5, clip_lr_factor=2.0, calibration="max")
    alpha = network.first._act_preprocess.alpha.item()
    assert alpha == pytest.approx(1 - 2 * 0.1 * 0.5, rel=1e-5)


def clipping_at(limit):
    clipping = PACT()
    clipping.reset(limit)
    return clipping


def test_the_gradient_of_the_limit_is_that_of_clipped_values():
    x = paddle.to_tensor([[-3.0, -1.0, 0.5, 1.5], [2.0, -2.5, 9.0, 0.0]], stop_gradient=False)
    gradient = paddle.to_tensor([[1.0, 2.0, 3.0, 4.0], [5.0, 6.0, 7.0, 8.0]])
    clipping = clipping_at(2.0)
    output = clipping(x)
    np.testing.assert_array_equal(output, np.clip(x.numpy(), -2, 2))
    (output * gradient).sum().backward()
    np.testing.assert_array_equal(x.grad, [[0, 2, 3, 4], [5, 0, 0, 8]])
    assert clipping.alpha.grad.item() == 2 * (7 - 1 - 6)
    clipping.eval()
    np.testing.assert_array_equal(clipping(x), x)


@settings(max_examples=20, deadline=None)
@given(
    seed=st.integers(0, 2**31),
    limit=st.floats(0.1, 3),
    shape=st.lists(st.integers(1, 5), min_size=2, max_size=4),
)
def test_the_fast_clipping_equals_operators_of_paddle(seed, limit, shape):
    values, gradient = np.random.default_rng(seed).standard_normal([2, *shape], np.float32)
    found = []
    for fast in (True, False):
        x = paddle.to_tensor(values, stop_gradient=False)
        clipping = clipping_at(limit)
        cut = paddle.maximum(paddle.minimum(x, clipping.limit), -clipping.limit)
        output = clipping(x) if fast else cut
        (output * paddle.to_tensor(gradient)).sum().backward()
        found.append([output.numpy(), x.grad.numpy(), clipping.alpha.grad.numpy()])
    for one, other in zip(*found, strict=True):
        np.testing.assert_allclose(one, other, atol=1e-4)


def test_no_scale_exceeds_its_clipping_value_after_a_step():
    network, _ = trained(Adam(lr=0.05), steps=1, clip_decay=1.0)
    scales, limits = [], []
    for layer in quantized_layers(network).values():
        scales.append(layer._fake_quant_input._scale.item())
        limits.append(layer._act_preprocess.limit.item())
    assert (np.array(scales) <= limits).all()
    assert (np.array(scales) == limits).any()


def test_scales_below_their_clipping_values_are_not_changed():
    network, _ = trained(SGD(lr=1e-6), calibration="max")
    for layer in quantized_layers(network).values():
        layer._act_preprocess.reset(50.0)
    before = arrays_of(network)
    update_scales(network)
    after = arrays_of(network)
    assert all(np.array_equal(before[name], after[name]) for name in before)


def test_clipping_values_stay_above_zero():
    network = Quantization().apply(Small())
    calibrate(network, images(), 1)
    network.first._act_preprocess.alpha.set_value(np.float32([-3]))
    update_scales(network)
    limit = network.first._act_preprocess.limit.item()
    assert limit > 0
    assert 0 < network.first._fake_quant_input._scale.item() <= limit


def test_the_scale_is_a_moving_average_of_the_largest_inputs():
    network = Quantization(clipping=False, moving_rate=0.5).apply(nn.Sequential(nn.Conv2D(3, 3, 1)))
    set_scale(network[0], 4.0)
    network.train()
    network(paddle.full([1, 3, 2, 2], -10.0))
    scale = (0.5 * 4 + 10) / 1.5
    assert network[0]._fake_quant_input._scale.item() == pytest.approx(scale)
    network.eval()
    network(paddle.full([1, 3, 2, 2], 99.0))
    assert network[0]._fake_quant_input._scale.item() == pytest.approx(scale)


@pytest.mark.parametrize("clipping", [True, False])
def test_loading_a_state_dict_is_exact(clipping):
    network, _ = trained(Adam(lr=1e-2), clipping=clipping)
    other = Quantization(clipping=clipping).apply(Small(seed=9))
    other.set_state_dict(arrays_of(network))
    x = images()[0]
    network.eval(), other.eval()
    np.testing.assert_array_equal(network(x), other(x))


def test_resuming_from_a_state_dict_is_exact():
    whole, _ = trained(SGD(lr=1e-2, momentum=0.0), steps=2 * STEPS)
    network, _ = trained(SGD(lr=1e-2, momentum=0.0), steps=STEPS)
    other = Quantization().apply(Small(seed=9))
    other.set_state_dict(arrays_of(network))
    optimizer = SGD(lr=1e-2, momentum=0.0).create(dict(other.named_parameters()))
    training = Training(other, optimizer, start=STEPS)
    for _ in range(STEPS):
        training.step()
    expected, found = arrays_of(whole), arrays_of(other)
    assert all(np.array_equal(expected[name], found[name]) for name in expected)


def test_a_copy_is_independent_and_trainable():
    network, _ = trained(Adam(lr=1e-2), clip_lr_factor=3.0)
    other = copy.deepcopy(network)
    network.eval(), other.eval()
    np.testing.assert_array_equal(network(images()[0]), other(images()[0]))
    before = arrays_of(network)
    alpha = other.first._act_preprocess.alpha
    assert alpha.optimize_attr["learning_rate"] == 3.0
    assert alpha.regularizer is not None
    Training(other, Adam(lr=0.1).create(dict(other.named_parameters()))).step()
    assert not np.array_equal(other.first.weight, network.first.weight)
    after = arrays_of(network)
    assert all(np.array_equal(before[name], after[name]) for name in before)


def test_averaged_weights_have_scales_within_their_clipping_values():
    network = Quantization(clip_lr_factor=10.0).apply(Small())
    calibrate(network, images(), 2)
    average = MovingAverage(network.state_dict())
    training = Training(network, Adam(lr=1e-2).create(dict(network.named_parameters())))
    for _ in range(STEPS):
        training.step()
        average.update(network.state_dict(), 0.7)
    network.set_state_dict(average.mean)
    network.eval()
    assert np.isfinite(network(images()[0]).numpy()).all()
    for layer in quantized_layers(network).values():
        scale, limit = layer._fake_quant_input._scale, layer._act_preprocess.limit
        assert 0 < scale.item() <= limit.item() * (1 + 1e-6)
        weight = np.abs(layer.weight.numpy())
        axes = (0,) if weight.ndim == 2 else (1, 2, 3)
        np.testing.assert_allclose(layer._fake_quant_weight._scale, weight.max(axes))
