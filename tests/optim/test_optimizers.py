"""Optimizers and learning-rate schedules."""

import numpy as np
import paddle
import pytest

from ppose.config import ConfigError, build, registered
from ppose.optim.optimizers import Optimizer
from ppose.optim.schedules import Constant, CosineDecay, LinearDecay, Schedule, StepDecay

EPOCHS, PER_EPOCH = 10, 20


def curve(schedule):
    return np.array([schedule.factor(s, PER_EPOCH, EPOCHS) for s in range(EPOCHS * PER_EPOCH)])


def test_step_decay_drops_at_its_milestones():
    factors = curve(StepDecay(milestones=[4, 8], gamma=0.1))
    assert np.allclose(factors, np.repeat([1, 0.1, 0.01], [80, 80, 40]))


def test_cosine_and_linear_decay_go_from_1_to_their_final_factor():
    for schedule in (CosineDecay(final=0.1), LinearDecay(final=0.1)):
        factors = curve(schedule)
        assert factors[0] == 1
        assert (np.diff(factors) < 0).all()
        assert schedule.factor(EPOCHS * PER_EPOCH, PER_EPOCH, EPOCHS) == pytest.approx(0.1)
    assert LinearDecay().factor(100, PER_EPOCH, EPOCHS) == pytest.approx(0.5)
    assert CosineDecay().factor(50, PER_EPOCH, EPOCHS) == pytest.approx((1 + np.sqrt(0.5)) / 2)


@pytest.mark.parametrize("name", registered(Schedule))
def test_warm_up_multiplies_the_schedule_by_a_linear_rise(name):
    milestones = {"milestones": [5]} if name == "StepDecay" else {}
    plain = build({"type": name, **milestones})
    warm = build({"type": name, "warmup_steps": 10, "warmup_factor": 0.1, **milestones})
    ratio = curve(warm) / curve(plain)
    assert np.allclose(ratio[:11], np.linspace(0.1, 1, 11))
    assert np.allclose(ratio[10:], 1)


def test_constant_is_constant():
    assert (curve(Constant()) == 1).all()


@pytest.mark.parametrize("name", registered(Optimizer))
def test_optimizers_find_the_minimum(name):
    paddle.seed(0)
    layer = paddle.nn.Linear(3, 1)
    optimizer = build({"type": name, "lr": 0.05}).create(dict(layer.named_parameters()))
    x = paddle.to_tensor(np.random.default_rng(0).normal(size=(64, 3)).astype("float32"))
    y = x @ paddle.to_tensor([[1.0], [-2.0], [0.5]])
    for _ in range(300):
        loss = (layer(x) - y).square().mean()
        loss.backward()
        optimizer.step()
        optimizer.clear_grad()
    assert float(loss) < 1e-3


@pytest.mark.parametrize("name", registered(Optimizer))
@pytest.mark.parametrize(
    "option", [{"weight_decay": 0.5}, {"clip_norm": 1e-3}], ids=["weight_decay", "clip_norm"]
)
def test_weight_decay_and_clipping_change_the_step(name, option):
    """Takes two steps, as the length of Adam's first does not depend on the gradient's norm."""

    def weights_after(arguments):
        layer = paddle.nn.Linear(2, 1)
        layer.set_state_dict({"weight": np.ones((2, 1), "float32"), "bias": np.ones(1, "float32")})
        parameters = dict(layer.named_parameters())
        optimizer = build({"type": name, "lr": 0.1, **arguments}).create(parameters)
        for scale in (1.0, 5.0):
            (layer(paddle.ones([1, 2])) * scale).sum().backward()
            optimizer.step()
            optimizer.clear_grad()
        return layer.weight.numpy()

    assert not np.allclose(weights_after({}), weights_after(option), rtol=1e-4)


@pytest.mark.parametrize("name", registered(Optimizer))
def test_lr_factors_scale_the_steps_of_matching_parameters(name):
    layer = paddle.nn.Sequential(paddle.nn.Linear(2, 1), paddle.nn.Linear(1, 1))
    names = dict(layer.named_parameters())
    before = {k: v.numpy().copy() for k, v in names.items()}
    factors = {"0": 0.5, r"0\.bias": 0.1}
    optimizer = build({"type": name, "lr": 0.1, "lr_factors": factors}).create(names)
    loss = sum(parameter.sum() for parameter in names.values())
    loss.backward()
    optimizer.step()
    moved = {k: float(np.abs(v.numpy() - before[k]).max()) for k, v in names.items()}
    assert moved["1.weight"] == pytest.approx(0.1, rel=0.02)
    assert moved["0.weight"] == pytest.approx(0.05, rel=0.02)
    assert moved["0.bias"] == pytest.approx(0.01, rel=0.02)


def test_a_pattern_without_match_is_an_error():
    names = dict(paddle.nn.Linear(2, 1).named_parameters())
    with pytest.raises(ConfigError, match=r"optimizer.lr_factors: no name begins with"):
        build({"type": "Adam", "lr": 0.1, "lr_factors": {"head": 0.1}}).create(names)


def test_the_learning_rate_scales_with_the_batch():
    assert build({"type": "Adam", "lr": 0.1}).batch_factor(64) == 1
    assert build({"type": "Adam", "lr": 0.1, "base_batch": 512}).batch_factor(64) == 1 / 8


@pytest.mark.parametrize(
    "arguments",
    [
        {"lr": 0.0},
        {"lr": 1.0, "clip_norm": 0.0},
        {"lr": 1.0, "base_batch": 0},
        {"lr": 1.0, "lr_factors": {"": 0}},
    ],
    ids=["lr", "clip_norm", "base_batch", "lr_factors"],
)
def test_arguments_out_of_range_are_errors(arguments):
    with pytest.raises(ValueError, match=r": expected (float above 0|int in 1\.\.)"):
        build({"type": "Adam", **arguments})


@pytest.mark.parametrize("name", registered(Optimizer))
def test_own_decay_and_learning_rate_of_a_parameter_are_kept(name):
    """The clipping values of PACT have them. Without a gradient, only a decay could move it."""
    own = paddle.create_parameter([1], "float32")
    own.set_value(np.float32([1.0]))
    own.regularizer = paddle.regularizer.L2Decay(0.0)
    own.optimize_attr["learning_rate"] = 10.0
    node = {"type": name, "lr": 0.1, "weight_decay": 0.5, "lr_factors": {"own": 0.5}}
    optimizer = build(node).create({"own": own})
    (own * 0).sum().backward()
    optimizer.step()
    assert own.item() == 1.0
    assert own.optimize_attr["learning_rate"] == 10.0 * 0.5
