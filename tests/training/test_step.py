"""A step as the trainer makes it, with scaled losses too."""

import os

import numpy as np
import paddle
import pytest

from ppose.experiment import Experiment
from ppose.optim.batch_norm import BATCH_NORMS
from ppose.training.hooks.averaging import SWAHook
from ppose.training.hooks.checkpointing import CheckpointHook
from ppose.training.hooks.scoring import EvaluationHook
from ppose.training.setup import prepare
from ppose.training.step import DivergedError


def trainer_of(quickstart, small_run, *more, **options):
    run = Experiment.from_file(quickstart, [*small_run, *more])
    return prepare(run, **{"hooks": []} | options)


def arrays_of(tensors):
    return {name: tensor.numpy().copy() for name, tensor in tensors.items()}


def first_batches(trainer):
    return next(trainer.data.batches())[0]


class Overflowing(paddle.nn.Layer):
    """Passes its input on, and an infinite gradient back."""

    def forward(self, x):
        return _Infinite.apply(x)


class _Infinite(paddle.autograd.PyLayer):
    @staticmethod
    def forward(ctx, x):
        return x.clone()

    @staticmethod
    def backward(ctx, gradient):
        return gradient * float("inf")


def overflowing(quickstart, small_run, *more):
    run = Experiment.from_file(quickstart, [*small_run, "amp=fp16", *more])
    run.model.final_conv = paddle.nn.Sequential(run.model.final_conv, Overflowing())
    return prepare(run, hooks=[])


def test_scaled_steps_are_those_that_are_not_scaled(quickstart, small_run, fp16_on_cpu):
    sgd = "optimizer={type: SGD, lr: 1e-2, clip_norm: 0.01}"
    plain, scaled = (trainer_of(quickstart, small_run, sgd, f"amp={a}") for a in ("off", "fp16"))
    for trainer in (plain, scaled):
        for batches, _ in trainer.data.batches():
            report = trainer.run_step(batches)
    assert report.loss_scale == 2.0**16
    one, two = arrays_of(plain.state.weights()), arrays_of(scaled.state.weights())
    assert all(np.allclose(one[k], two[k], rtol=1e-4, atol=1e-6) for k in one)


def test_a_step_that_overflows_moves_neither_weights_nor_average(
    quickstart, small_run, fp16_on_cpu
):
    trainer = overflowing(quickstart, small_run, "ema={type: EMA, decay: 0.5, warmup: 0}")
    trained = {k: v for k, v in trainer.state.weights().items() if not v.stop_gradient}
    before, mean = arrays_of(trained), arrays_of(trainer.state.ema.mean)
    report = trainer.run_step(first_batches(trainer))
    assert report.skipped
    assert all(np.array_equal(before[k], v) for k, v in arrays_of(trained).items())
    assert all(np.array_equal(mean[k], v) for k, v in arrays_of(trainer.state.ema.mean).items())


def test_overflow_at_every_scale_is_an_error(quickstart, small_run, fp16_on_cpu):
    trainer = overflowing(quickstart, small_run)
    batches = first_batches(trainer)
    with pytest.raises(DivergedError, match="overflow however little the loss is scaled"):
        for _ in range(40):
            trainer.run_step(batches)


def test_the_loss_scale_is_resumed(quickstart, small_run, fp16_on_cpu):
    trainer = overflowing(quickstart, small_run)
    trainer.run_step(first_batches(trainer))
    assert trainer.state.precision.loss_scale == 2.0**15
    trainer.save()
    run = Experiment.from_file(quickstart, [*small_run, "amp=fp16"])
    run.model.final_conv = paddle.nn.Sequential(run.model.final_conv, Overflowing())
    assert prepare(run, resume=True, hooks=[]).state.precision.loss_scale == 2.0**15


def test_the_average_warms_up_from_the_first_step(quickstart, small_run):
    trainer = trainer_of(quickstart, small_run, "ema={type: EMA, decay: 0.9, warmup: 4}")
    before = arrays_of(trainer.state.ema.mean)
    trainer.run_step(first_batches(trainer))
    after = arrays_of(trainer.state.weights())
    for name, mean in arrays_of(trainer.state.ema.mean).items():
        assert np.allclose(mean, 0.4 * before[name] + 0.6 * after[name], atol=1e-5), name


def test_the_rate_of_swa_follows_the_batch_too(quickstart, small_run):
    swa = "swa={type: SWA, start_epoch: 0, lr: [1e-3, 1e-3]}"
    trainer = trainer_of(quickstart, small_run, swa, "optimizer.base_batch=16")
    assert trainer.run_step(first_batches(trainer)).lr == pytest.approx(1e-3 * 8 / 16)


def test_frozen_norms_keep_their_statistics_in_swa(quickstart, small_run):
    network = Experiment.from_file(quickstart, small_run).model
    name = next(n for n, layer in network.named_sublayers() if isinstance(layer, BATCH_NORMS))
    swa = "swa={type: SWA, start_epoch: 0}"
    trainer = trainer_of(
        quickstart, small_run, swa, f"freeze=['{name}']", hooks=[SWAHook(), CheckpointHook()]
    )
    statistics = f"{name}._mean"
    before = trainer.state.network.state_dict()[statistics].numpy().copy()
    seen = {}

    class Look(SWAHook):
        def after_evaluation(self, trainer, scores, what):
            seen.update(arrays_of(trainer.state.network.state_dict()))

    trainer.hooks.append(Look())
    trainer.train()
    assert np.array_equal(seen[statistics], before)


def test_best_and_stale_are_resumed_unless_they_mean_something_else(quickstart, small_run, capsys):
    trainer = trainer_of(quickstart, small_run)
    trainer.run_step(first_batches(trainer))
    trainer.state.best, trainer.state.stale = 0.7, 3
    trainer.save()
    same = trainer_of(quickstart, small_run, resume=True)
    assert (same.state.best, same.state.stale) == (0.7, 3)
    other = trainer_of(quickstart, small_run, "flip_test=false", resume=True)
    assert (other.state.best, other.state.stale) == (None, 0)
    assert "'flip_test' has changed" in capsys.readouterr().out


def test_a_better_score_ends_the_count_of_stale_ones(quickstart, small_run):
    trainer = trainer_of(quickstart, small_run, hooks=[EvaluationHook()])
    trainer.state.best, trainer.state.stale = -1.0, 2
    trainer.train()
    assert trainer.state.stale == 0


def test_the_switch_makes_mkl_reproducible(quickstart, small_run, monkeypatch):
    monkeypatch.setenv("MKL_CBWR", "")  # so that it is gone after the test
    monkeypatch.delenv("MKL_CBWR")
    trainer_of(quickstart, small_run)
    assert "MKL_CBWR" not in os.environ
    trainer_of(quickstart, small_run, "deterministic=true")
    assert os.environ["MKL_CBWR"] == "AVX2,STRICT"


def test_float32_copies_of_the_optimizer_are_saved_and_restored(quickstart, small_run):
    trainer = trainer_of(quickstart, small_run)
    trainer.run_step(first_batches(trainer))
    parameter = trainer.state.network.final_conv.bias
    trainer.state.optimizer._master_weights[parameter.name] = parameter + 1e-3
    trainer.save()
    resumed = trainer_of(quickstart, small_run, resume=True)
    expected = (parameter + 1e-3).numpy()
    assert np.array_equal(resumed.state.network.final_conv.bias.numpy(), expected)


def test_data_in_another_order_is_not_resumed(quickstart, small_run):
    trainer = trainer_of(quickstart, small_run)
    trainer.run_step(first_batches(trainer))
    trainer.save()
    run = Experiment.from_file(quickstart, small_run)
    run.train_dataset.keypoints = run.train_dataset.keypoints[::-1]
    with pytest.raises(ValueError, match="was trained on other annotations"):
        prepare(run, resume=True, hooks=[])


class DiesAtTheEnd(SWAHook):
    def after_train(self, trainer):
        raise KeyboardInterrupt


def test_what_follows_the_last_step_is_made_up_for(quickstart, small_run):
    swa = "swa={type: SWA, start_epoch: 0}"
    whole = trainer_of(
        quickstart, small_run, swa, hooks=[EvaluationHook(), DiesAtTheEnd(), CheckpointHook()]
    )
    with pytest.raises(KeyboardInterrupt):
        whole.train()
    assert not (whole.folder / "last.safetensors").exists()
    resumed = trainer_of(
        quickstart,
        small_run,
        swa,
        resume=True,
        hooks=[EvaluationHook(), SWAHook(), CheckpointHook()],
    )
    assert resumed.is_trained
    assert not resumed.is_over
    resumed.train()
    assert {p.stem for p in resumed.folder.glob("*.safetensors")} == {"best", "last", "swa"}
    assert trainer_of(quickstart, small_run, swa, resume=True).is_over
