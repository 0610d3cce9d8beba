"""Exponential moving average of weights."""

import numpy as np
import paddle
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ppose.optim.ema import EMA, MovingAverage


@settings(deadline=None, max_examples=30)
@given(st.lists(st.floats(-10, 10, width=32), min_size=1, max_size=12), st.floats(0.01, 0.99))
def test_the_average_is_the_recursion_of_its_definition(values, decay):
    average = MovingAverage({"w": paddle.to_tensor([0.0])})
    expected = 0.0
    for value in values:
        average.update({"w": paddle.to_tensor([value], dtype="float32")}, decay)
        expected = decay * expected + (1 - decay) * value
    assert average.mean["w"].numpy()[0] == pytest.approx(expected, abs=1e-4)


def test_the_average_is_a_copy_of_the_initial_weights():
    weight = paddle.ones([2])
    average = MovingAverage({"w": weight})
    weight.set_value(np.zeros(2, np.float32))
    assert (average.mean["w"].numpy() == 1).all()


def test_half_precision_weights_are_averaged_in_float32():
    average = MovingAverage({"w": paddle.ones([1]).astype("bfloat16")})
    average.update({"w": paddle.zeros([1]).astype("bfloat16")}, 0.9999)
    assert average.mean["w"].numpy().dtype == np.float32
    assert average.mean["w"].numpy()[0] == pytest.approx(0.9999)


def test_warm_up_raises_the_decay_to_its_final_value():
    ema = EMA(decay=0.999, warmup=10)
    assert ema.decay_at(1) == pytest.approx(2 / 11)
    rising = [ema.decay_at(step) for step in range(1, 20_000)]
    assert (np.diff(rising) >= 0).all()
    assert rising[-1] == 0.999
    assert EMA(decay=0.999, warmup=0).decay_at(1) == 0.999


@pytest.mark.parametrize("wrong", [{"decay": 1.0}, {"decay": 0.0}, {"warmup": -1}])
def test_values_out_of_range_are_errors(wrong):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        EMA(**wrong)
