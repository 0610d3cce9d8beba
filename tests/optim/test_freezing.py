"""Frozen parameters and batch-norm statistics do not change."""

import numpy as np
import paddle
import pytest

from ppose.config import ConfigError
from ppose.models import HRNet, PoseNet
from ppose.optim.freezing import Freezing
from ppose.structures.skeleton import COCO17


@pytest.fixture
def network():
    return PoseNet(HRNet(width=4, modules=(1, 1, 1), blocks=1, stem_width=8), COCO17)


def arrays_of(network):
    return {k: v.numpy().copy() for k, v in network.state_dict().items()}


def test_a_step_changes_everything_but_the_frozen_part(network):
    freezing = Freezing(network, [r"backbone\.conv_layer1", r"final_conv\.bias"])
    optimizer = paddle.optimizer.Adam(0.1, parameters=network.parameters())
    before = arrays_of(network)
    freezing.train(network)
    network(paddle.randn([2, 3, 64, 64])).square().mean().backward()
    optimizer.step()
    after = arrays_of(network)
    unchanged = {name for name in before if np.array_equal(before[name], after[name])}
    first = {name for name in before if name.startswith("backbone.conv_layer1")}
    assert any(name.endswith("_mean") for name in first)
    assert first | {"final_conv.bias"} == unchanged


def test_a_norm_with_only_its_bias_frozen_still_updates_statistics(network):
    frozen = Freezing(network, [r"backbone\.conv_layer1.*bias"])
    assert not frozen.norms


def test_a_pattern_without_match_is_an_error_that_suggests_a_name(network):
    with pytest.raises(ConfigError, match=r"'final_cone'; did you mean 'final_conv'"):
        Freezing(network, ["final_cone"])
    with pytest.raises(ConfigError, match=r"freeze: .*'\(' is not a regular expression"):
        Freezing(network, ["("])


def test_freezing_everything_is_an_error(network):
    with pytest.raises(ConfigError, match="leave nothing to train"):
        Freezing(network, [""])
