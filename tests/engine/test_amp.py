"""Mixed precision as far as a CPU can show it: the refusal, and fp16's loss scaling."""

import numpy as np
import paddle
import pytest

from ppose.engine.amp import Precision, masters
from ppose.registry import ConfigError

pytestmark = pytest.mark.skipif(
    paddle.get_device() != "cpu", reason="shows what Paddle does on a CPU"
)


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
def test_half_precision_on_a_cpu_is_refused(amp):
    with pytest.raises(ConfigError, match=f"amp: {amp} needs a GPU"):
        Precision(amp)


def test_off_changes_nothing():
    precision = Precision("off")
    layer, optimizer = one_weight()
    precision.prepare(layer, optimizer)
    assert precision.loss_scale is None
    assert not precision.is_spent
    assert step(precision, layer, optimizer) == (1.0, True)
    assert layer.weight.item() == 0.5
    assert precision.state() == {}


def test_gradients_come_back_unscaled(scaling):
    layer, optimizer = one_weight()
    assert scaling.loss_scale == 2.0**16
    assert step(scaling, layer, optimizer) == (1.0, True)
    assert layer.weight.item() == 0.5


def test_an_overflow_leaves_the_step_out_and_halves_the_scale(scaling):
    layer, optimizer = one_weight()
    _, updated = step(scaling, layer, optimizer, factor=1e38)
    assert not updated
    assert layer.weight.item() == 1.0
    assert scaling.loss_scale == 2.0**15
    assert step(scaling, layer, optimizer) == (1.0, True)


def test_overflow_is_no_excuse_once_the_scale_is_spent(scaling):
    layer, optimizer = one_weight()
    for _ in range(16):
        assert not scaling.is_spent
        step(scaling, layer, optimizer, factor=float("inf"))
    step(scaling, layer, optimizer, factor=float("inf"))
    assert scaling.is_spent


def test_the_scale_and_its_counters_survive(scaling):
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
    assert other.loss_scale == 2.0**16, "2000 good steps double it"


def test_the_optimizers_float32_copies_are_the_weights():
    layer, optimizer = one_weight()
    copy = paddle.full([1, 1], 0.25)
    optimizer._master_weights[layer.weight.name] = copy
    assert masters(layer, optimizer) == {"weight": copy}
