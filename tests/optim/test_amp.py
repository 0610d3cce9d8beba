"""Mixed precision on a CPU: the error, and the loss scaling of fp16."""

import numpy as np
import paddle
import pytest

from ppose.config import ConfigError
from ppose.optim.amp import Precision, master_weights

pytestmark = pytest.mark.skipif(paddle.get_device() != "cpu", reason="tests the behaviour on a CPU")


@pytest.fixture
def scaling(fp16_on_cpu):
    return Precision("fp16")


def one_weight():
    layer = paddle.nn.Linear(1, 1, bias_attr=False)
    layer.weight.set_value(np.ones((1, 1), np.float32))
    return layer, paddle.optimizer.SGD(0.5, parameters=layer.parameters())


def step(precision, layer, optimizer, factor=1.0):
    with precision.autocast():
        output = layer(paddle.ones([1, 1]))
    precision.backward((output * factor).sum())
    precision.unscale(optimizer)
    gradient = layer.weight.grad.item()
    updated = precision.step(optimizer)
    optimizer.clear_grad()
    return gradient, updated


@pytest.mark.parametrize("amp", ["fp16", "bf16"])
def test_half_precision_on_a_cpu_is_an_error(amp):
    with pytest.raises(ConfigError, match=f"amp: {amp} needs a GPU"):
        Precision(amp)


def test_off_changes_nothing():
    precision = Precision("off")
    layer, optimizer = one_weight()
    precision.prepare(layer, optimizer)
    assert precision.loss_scale is None
    assert not precision.is_exhausted
    assert step(precision, layer, optimizer) == (1.0, True)
    assert layer.weight.item() == 0.5
    assert precision.state() == {}


def test_gradients_are_unscaled(scaling):
    layer, optimizer = one_weight()
    assert scaling.loss_scale == 2.0**16
    assert step(scaling, layer, optimizer) == (1.0, True)
    assert layer.weight.item() == 0.5


def test_an_overflow_skips_the_step_and_halves_the_scale(scaling):
    layer, optimizer = one_weight()
    _, updated = step(scaling, layer, optimizer, factor=1e38)
    assert not updated
    assert layer.weight.item() == 1.0
    assert scaling.loss_scale == 2.0**15
    assert step(scaling, layer, optimizer) == (1.0, True)


def test_the_scale_is_spent_after_many_overflows(scaling):
    layer, optimizer = one_weight()
    for _ in range(16):
        assert not scaling.is_exhausted
        step(scaling, layer, optimizer, factor=float("inf"))
    step(scaling, layer, optimizer, factor=float("inf"))
    assert scaling.is_exhausted


def test_scale_and_counter_are_saved_and_restored(scaling):
    layer, optimizer = one_weight()
    step(scaling, layer, optimizer, factor=1e38)
    for _ in range(3):
        step(scaling, layer, optimizer)
    assert scaling.state() == {"scale": 2.0**15, "good_steps": 3}
    other = Precision("fp16")
    other.load_state(scaling.state())
    assert other.state() == scaling.state()
    for _ in range(1997):
        step(other, layer, optimizer)
    assert other.loss_scale == 2.0**16, "2000 good steps double the scale"


def test_float32_copies_of_the_optimizer_are_the_weights():
    layer, optimizer = one_weight()
    copy = paddle.full([1, 1], 0.25)
    optimizer._master_weights[layer.weight.name] = copy
    assert master_weights(layer, optimizer) == {"weight": copy}
