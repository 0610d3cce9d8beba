"""A bottom-up network learns, and a resumed run is the run that was not stopped."""

import numpy as np
import pytest

from ppose.experiment import Experiment
from ppose.training.setup import prepare
from ppose.weights.weight_file import WeightsError, save_arrays


def run_of(config, overrides, *more):
    return Experiment.from_file(config, [*overrides, *more])


def arrays_of(trainer):
    return {k: v.numpy() for k, v in trainer.state.network.state_dict().items()}


def test_training_lowers_each_loss(imhn_quickstart, small_bottomup):
    run = run_of(imhn_quickstart, small_bottomup, "epochs=10", "optimizer.lr=5e-3")
    trainer = prepare(run, hooks=[])
    losses = [trainer.run_step(batch).losses for batch, _ in trainer.data.batches()]
    for name in ("limbs", "joints", "masks"):
        values = [step[name] for step in losses]
        assert np.mean(values[-5:]) < 0.7 * np.mean(values[:5]), name


def test_resuming_gives_the_run_that_was_not_stopped(imhn_quickstart, small_bottomup):
    whole = prepare(run_of(imhn_quickstart, small_bottomup), hooks=[])
    whole.train()
    stopped = prepare(run_of(imhn_quickstart, small_bottomup, "epochs=1"), hooks=[])
    stopped.train()
    stopped.save()
    resumed = prepare(run_of(imhn_quickstart, small_bottomup), resume=True, hooks=[])
    resumed.train()
    one, two = arrays_of(resumed), arrays_of(whole)
    assert all(np.array_equal(one[name], two[name]) for name in two)


def test_training_starts_from_pretrained_weights(imhn_quickstart, small_bottomup, tmp_path):
    first = prepare(run_of(imhn_quickstart, small_bottomup), hooks=[])
    weights = tmp_path / "weights.safetensors"
    save_arrays(weights, arrays_of(first))
    start = [*small_bottomup, f"pretrain_weights={weights}"]
    second = prepare(run_of(imhn_quickstart, start, "seed=5"), hooks=[])
    assert all(np.array_equal(a, arrays_of(second)[k]) for k, a in arrays_of(first).items())
    with pytest.raises(WeightsError, match="All tensors except the head must match"):
        prepare(run_of(imhn_quickstart, start, "model.width=32"), hooks=[])


def test_training_starts_from_weights_of_other_parts(imhn_quickstart, small_bottomup, tmp_path):
    first = prepare(run_of(imhn_quickstart, small_bottomup, "model.stacks=2"), hooks=[])
    weights = tmp_path / "weights.safetensors"
    save_arrays(weights, arrays_of(first))
    other = run_of(
        imhn_quickstart,
        [*small_bottomup, f"pretrain_weights={weights}", "seed=5", "model.stacks=2"],
        "codec.parts={skeleton: coco17}",
    )
    second = prepare(other, hooks=[])
    one, two = arrays_of(first), arrays_of(second)
    kept = {name for name in one if one[name].shape == two[name].shape}
    assert all(np.array_equal(one[name], two[name]) for name in kept)
    fresh = two.keys() - kept
    assert fresh
    assert all("heads" in name or "maps" in name for name in fresh)
