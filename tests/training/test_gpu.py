"""Training on a GPU: skipped where Paddle has none."""

import numpy as np
import paddle
import pytest

from ppose.experiment import Experiment
from ppose.training.setup import prepare

pytestmark = pytest.mark.gpu


@pytest.fixture
def on_cpu():
    """Runs a function on the CPU, and what follows on the device of before."""

    def run(function):
        device = paddle.get_device()
        paddle.set_device("cpu")
        try:
            return function()
        finally:
            paddle.set_device(device)

    return run


def losses(quickstart, overrides):
    trainer = prepare(Experiment.from_file(quickstart, overrides), hooks=[])
    return [trainer.run_step(batches).loss for batches, _ in trainer.data.batches()]


def test_steps_are_those_of_the_cpu(quickstart, small_run, on_cpu):
    overrides = [*small_run, "optimizer={type: SGD, lr: 1e-3}"]
    expected = on_cpu(lambda: losses(quickstart, overrides))
    assert np.allclose(losses(quickstart, overrides), expected, rtol=1e-3)


@pytest.mark.parametrize("amp", ["fp16", "bf16"])
@pytest.mark.parametrize("level", ["O1", "O2"])
def test_half_precision_trains(quickstart, small_run, amp, level):
    full = losses(quickstart, small_run)
    half = losses(quickstart, [*small_run, f"amp={amp}", f"amp_level={level}"])
    assert np.isfinite(half).all()
    assert np.allclose(half, full, rtol=0.1)


def test_memory_is_that_of_the_gpu(quickstart, small_run):
    from ppose.training.meter import memory_mb

    losses(quickstart, small_run)
    assert memory_mb() == pytest.approx(paddle.device.cuda.max_memory_reserved() / 1e6)
