"""Calibration on known inputs, and sensitivity of blocks."""

import numpy as np
import paddle
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from paddle import nn
from paddle.nn import functional as F
from tiny_quantized_networks import Small, images

from ppose.compression.calibrate import AbsHistogram, calibrate, quantize_only
from ppose.compression.quantize import Quantization, quantizable_layers, quantized_layers
from ppose.compression.sensitivity import (
    BlockLoss,
    group_layers,
    negative_map_error,
    sensitivity,
    suggest_exclusions,
)
from ppose.config.patterns import match_names
from ppose.utils.errors import PposeError


def one_layer(**settings):
    network = nn.Sequential(nn.Conv2D(3, 4, 1))
    return Quantization(**settings).apply(network), network[0]


def uniform(count=40_000, high=1.0, seed=0):
    return np.random.default_rng(seed).uniform(-high, high, count).astype(np.float32)


def histogram_of(*arrays):
    found = AbsHistogram()
    for array in arrays:
        found.add(array)
    return found


def test_max_is_the_largest_input_over_all_batches():
    network, layer = one_layer()
    batches = [paddle.full([1, 3, 2, 2], value) for value in (1.5, -4.0, 2.0, 50.0)]
    assert calibrate(network, batches, 3, "max") == 3
    assert layer._fake_quant_input._scale.item() == 4
    assert layer._fake_quant_input._accum.item() / layer._fake_quant_input._state.item() == 4
    assert layer._act_preprocess.limit.item() == 4
    weight = np.abs(layer.weight.numpy()).max((1, 2, 3))
    np.testing.assert_array_equal(layer._fake_quant_weight._scale, weight)


@pytest.mark.parametrize("method", ["max", "percentile", "mse"])
def test_calibration_without_clipping_and_per_tensor(method):
    network, layer = one_layer(clipping=False, weight_scale="tensor")
    calibrate(network, [paddle.to_tensor(uniform(12)).reshape([1, 3, 2, 2])], 1, method)
    assert 0 < layer._fake_quant_input._scale.item() <= 1
    assert layer._fake_quant_weight._scale.item() == layer.weight.abs().max().item()


def test_inputs_are_observed_in_float_and_in_eval_mode():
    network = Quantization().apply(Small())
    x = images()[0]
    plain = Small()
    plain.eval()
    hidden = plain.depthwise(F.relu(plain.norm(plain.first(x))))
    gate = F.sigmoid(plain.squeeze(hidden.mean([2, 3]))).unsqueeze([2, 3])
    network.train()
    statistics = network.norm._mean.numpy().copy()
    calibrate(network, [x], 1, "max")
    found = network.last._fake_quant_input._scale.item()
    assert found == pytest.approx((hidden * gate).abs().max().item(), rel=1e-5)
    np.testing.assert_array_equal(network.norm._mean, statistics)
    assert network.training and network.norm.training
    for layer in quantized_layers(network).values():
        assert layer.enabled and not layer._forward_pre_hooks


class Auxiliary(nn.Layer):
    """Has a second output in training only."""

    def __init__(self):
        super().__init__()
        self.main, self.auxiliary = nn.Conv2D(3, 2, 1), nn.Conv2D(3, 2, 1)

    def forward(self, x):
        return (self.main(x), self.auxiliary(5 * x)) if self.training else self.main(x)


def test_layers_that_run_in_training_only_are_calibrated_too():
    network = Quantization().apply(Auxiliary())
    network.eval()
    calibrate(network, [paddle.ones([1, 3, 2, 2])], 1, "max")
    assert network.auxiliary._fake_quant_input._scale.item() == 5
    assert not network.training


def test_a_layer_with_only_zero_inputs_keeps_its_scale():
    network, layer = one_layer()
    before = layer._fake_quant_input._scale.item()
    calibrate(network, [paddle.zeros([1, 3, 2, 2])], 1)
    assert layer._fake_quant_input._scale.item() == before


def test_a_float_network_and_missing_images_are_errors():
    with pytest.raises(PposeError, match="no quantized layer"):
        calibrate(Small(), images(), 1)
    with pytest.raises(PposeError, match="no images"):
        calibrate(Quantization().apply(Small()), [], 1)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_inputs_that_are_not_finite_are_an_error_that_names_the_layer(value):
    network = Quantization().apply(Small())
    network.depthwise.weight.set_value(paddle.full(network.depthwise.weight.shape, value))
    with pytest.raises(PposeError, match="input of 'squeeze.0' contains (nan|inf)"):
        calibrate(network, images(), 1)
    assert all(layer.enabled for layer in quantized_layers(network).values())


@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 2**31),
    sizes=st.lists(st.floats(1e-3, 1e3), min_size=1, max_size=5),
)
def test_a_histogram_does_not_depend_on_the_order_of_batches(seed, sizes):
    batches = [uniform(50, high, seed + i) for i, high in enumerate(sizes)]
    found, other = histogram_of(*batches), histogram_of(*batches[::-1])
    assert found.largest == other.largest == np.abs(np.concatenate(batches)).max()
    assert found.counts.sum() == 50 * len(batches)
    np.testing.assert_array_equal(found.counts, other.counts)
    assert found.span / 2 <= found.largest < found.span


def test_zeros_are_not_counted():
    assert histogram_of(np.zeros(9, np.float32)).largest == 0
    assert histogram_of(np.full(9, 1e-44, np.float32)).largest == 0
    assert histogram_of(np.float32([0, 0, 3])).counts.sum() == 1


def test_the_percentile_ignores_outliers():
    values = np.concatenate([uniform(99_995), np.float32([500] * 5)])
    assert histogram_of(values).limit("percentile") == pytest.approx(1, abs=0.1)
    assert histogram_of(values).limit("max") == 500


def error_at(values, limit):
    """Mean squared error of int8 with one limit, computed directly."""
    steps = np.round(np.clip(values / limit, -1, 1) * 127)
    return ((steps * limit / 127 - values) ** 2).mean()


def test_mse_keeps_the_range_of_uniform_values():
    assert histogram_of(uniform()).limit("mse") == pytest.approx(1, rel=0.05)


@pytest.mark.parametrize("spread", ["normal", "laplace", "standard_t"])
def test_mse_is_close_to_the_least_error_of_all_limits(spread):
    numbers = np.random.default_rng(5)
    arguments = (4,) if spread == "standard_t" else ()
    values = getattr(numbers, spread)(*arguments, size=60_000).astype(np.float32)
    limit = histogram_of(values).limit("mse")
    largest = np.abs(values).max()
    least = min(error_at(values, largest * share) for share in np.linspace(0.05, 1, 200))
    assert error_at(values, limit) <= 1.02 * least
    assert limit < 0.95 * largest


def test_only_enables_layers_and_restores_them():
    network = Quantization().apply(Small())
    network.first.enabled = False
    with quantize_only(network, ["last"]):
        on = [name for name, layer in quantized_layers(network).items() if layer.enabled]
        assert on == ["last"]
    off = [name for name, layer in quantized_layers(network).items() if not layer.enabled]
    assert off == ["first"]


def sensitive_network():
    """A network whose depthwise convolution has one input channel 1000 times the others."""
    network = Small()
    gain = paddle.ones([8])
    gain[0] = 1000.0
    network.norm.weight.set_value(gain)
    network.depthwise.weight.set_value(network.depthwise.weight / gain.reshape([8, 1, 1, 1]))
    Quantization().apply(network)
    calibrate(network, images(), 1, "max")
    return network


def test_closeness_is_minus_the_relative_error_of_the_maps():
    network, batches = sensitive_network(), images()
    score = negative_map_error(network, batches)
    network.eval()
    with paddle.no_grad():
        found = paddle.concat([network(x) for x in batches]).numpy()
        with quantize_only(network, ()):
            assert score() == 0
            exact = paddle.concat([network(x) for x in batches]).numpy()
    assert score() == pytest.approx(-((found - exact) ** 2).sum() / (exact**2).sum(), rel=1e-4)


def test_sensitivity_finds_the_sensitive_block_and_proposes_to_exclude_it():
    network = sensitive_network()
    score = negative_map_error(network, images(1))
    blocks = group_layers(quantized_layers(network), depth=1)
    rows = sensitivity(network, blocks, score)
    assert {row.block for row in rows} == {"first", "depthwise", "squeeze", "last"}
    assert rows[0].block == "depthwise"
    assert rows[0].lost > 10 * rows[1].lost > 0
    assert rows == sorted(rows, key=lambda row: -row.lost)
    assert next(row for row in rows if row.block == "squeeze").layers == ("squeeze.0", "squeeze.1")
    patterns = suggest_exclusions(rows, allowed=2 * rows[1].lost)
    names = quantizable_layers(Small())
    assert [n for p in patterns for n in match_names(p, names, "exclude")] == ["depthwise"]
    with quantize_only(network, set(names) - {"depthwise"}):
        partly = score()
    assert score() < 10 * partly < 0


def rows_of(**losses):
    return [BlockLoss(block, (block,), 0.0, lost) for block, lost in losses.items()]


@pytest.mark.parametrize(
    ("allowed", "expected"), [(9.0, []), (4.0, ["b"]), (1.0, ["b", "a"]), (0.0, ["b", "a", "c"])]
)
def test_a_proposal_excludes_the_fewest_blocks(allowed, expected):
    found = suggest_exclusions(rows_of(a=3.0, b=5.0, c=1.0, d=-2.0), allowed)
    assert found == [name + r"(\.|$)" for name in expected]


def test_a_proposed_pattern_matches_one_block_only():
    (pattern,) = suggest_exclusions([BlockLoss("stage.1", ("stage.1.conv",), 0.0, 5.0)], 0.0)
    names = ["stage.1.conv", "stage.10.conv", "stagex1.conv"]
    assert match_names(pattern, names, "exclude") == ["stage.1.conv"]


@pytest.mark.parametrize(
    ("depth", "expected"),
    [(1, ["a", "b"]), (2, ["a.x", "a.y", "b"]), (9, ["a.x.0", "a.x.1", "a.y.0", "b"])],
)
def test_blocks_group_layers_by_the_first_parts_of_their_names(depth, expected):
    names = ["a.x.0", "a.x.1", "a.y.0", "b"]
    blocks = group_layers(names, depth)
    assert list(blocks) == expected
    assert [name for layers in blocks.values() for name in layers] == names
