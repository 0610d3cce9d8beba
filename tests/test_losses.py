"""Losses against plain NumPy."""

import numpy as np
import paddle
import pytest

from ppose.losses import HeatmapMSE, HeatmapOHKM
from ppose.registry import ConfigError


@pytest.fixture
def batch():
    rng = np.random.default_rng(0)
    outputs = rng.random((3, 5, 8, 6), np.float32)
    target = rng.random((3, 5, 8, 6), np.float32)
    weight = (rng.random((3, 5)) < 0.7).astype(np.float32)
    targets = {"target": paddle.to_tensor(target), "weight": paddle.to_tensor(weight)}
    errors = ((outputs - target) ** 2).mean((2, 3)) * weight
    return paddle.to_tensor(outputs), targets, errors


def test_mse_is_the_published_mean_over_joints(batch):
    outputs, targets, errors = batch
    loss = HeatmapMSE(scale=0.5)(outputs, targets)
    assert list(loss) == ["heatmap"]
    assert float(loss["heatmap"]) == pytest.approx(0.5 * errors.mean(), rel=1e-5)
    assert float(HeatmapMSE(scale=1.0)(outputs, targets)["heatmap"]) == pytest.approx(errors.mean())


@pytest.mark.parametrize("joints", [1, 3, 5])
def test_ohkm_is_the_mean_of_the_hardest(batch, joints):
    outputs, targets, errors = batch
    hardest = np.sort(errors, 1)[:, -joints:].mean()
    loss = HeatmapOHKM(joints=joints)(outputs, targets)["heatmap_ohkm"]
    assert float(loss) == pytest.approx(0.5 * hardest, rel=1e-5)


def test_ohkm_with_more_joints_than_there_are_is_explained(batch):
    outputs, targets, _ = batch
    with pytest.raises(ConfigError, match="loss.joints: .*hardest 8 joints, but there are only 5"):
        HeatmapOHKM(joints=8)(outputs, targets)


def test_unlabelled_joints_get_no_gradient(batch):
    outputs, targets, _ = batch
    outputs.stop_gradient = False
    HeatmapMSE()(outputs, targets)["heatmap"].backward()
    has_gradient = np.abs(outputs.grad.numpy()).sum((2, 3)) > 0
    assert (has_gradient == (targets["weight"].numpy() > 0)).all()
