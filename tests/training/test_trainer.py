"""Training learns, stops on NaN, resumes exactly, and leaves what it promises."""

import json
import re
import signal

import numpy as np
import paddle
import pytest
from visualdl import LogReader

from ppose.api import load
from ppose.experiment import Experiment
from ppose.training.hooks.checkpointing import CheckpointHook
from ppose.training.setup import prepare, train
from ppose.training.step import DivergedError
from ppose.training.trainer import Hook
from ppose.utils.errors import PposeError
from ppose.weights.weight_file import WeightsError, read_arrays, read_metadata


def run_of(quickstart, small_run, *more):
    return Experiment.from_file(quickstart, [*small_run, *more])


def arrays_of(trainer):
    return {k: v.numpy() for k, v in trainer.state.network.state_dict().items()}


def same(one, two):
    return one.keys() == two.keys() and all(np.array_equal(one[k], two[k]) for k in one)


def test_training_lowers_the_loss(quickstart, small_run):
    trainer = prepare(run_of(quickstart, small_run, "epochs=12", "optimizer.lr=5e-3"), hooks=[])
    losses = [trainer.run_step(batch).loss for batch, _ in trainer.data.batches()]
    assert np.mean(losses[-5:]) < 0.7 * np.mean(losses[:5])


def test_a_run_leaves_config_weights_state_and_curves(quickstart, small_run, capsys):
    run = run_of(quickstart, small_run)
    trainer = train(run)
    folder = trainer.folder
    assert {p.name for p in folder.iterdir()} == {
        *("config.yml", "run.json", "train.log", "metrics.jsonl", "vdl"),
        *("checkpoints", "best.safetensors", "last.safetensors"),
    }
    again = Experiment.from_file(folder / "config.yml")
    assert again.config == run.config

    out = capsys.readouterr().out
    line = r"epoch 2/2  step \d+/\d+  loss [\d.]+  lr 2.00e-03  .* samples/s  data wait \d+%  ETA"
    assert re.search(line, out)
    assert "APM" in out

    best = read_arrays(folder / "best.safetensors")
    assert best.keys() == trainer.state.network.state_dict().keys()
    assert float(read_metadata(folder / "best.safetensors")["AP"]) == pytest.approx(
        trainer.state.best, abs=1e-4
    )

    (log,) = (folder / "vdl").glob("vdlrecords.*.log")
    tags = LogReader(file_path=str(log)).get_tags()
    assert {"train/loss", "train/lr", "train/data_wait", "val/AP"} <= set(tags["scalar"])
    assert set(tags["image"]) == {"train/targets", "train/heatmaps", "val/predictions"}


@pytest.mark.parametrize("first_part", ["epochs=1", "epochs=2"])
def test_resuming_gives_the_run_that_was_not_stopped(quickstart, small_run, first_part):
    whole = prepare(run_of(quickstart, small_run, "epochs=3"), hooks=[])
    whole.train()

    stopped = prepare(run_of(quickstart, small_run, first_part), hooks=[])
    stopped.train()
    stopped.save()
    resumed = prepare(run_of(quickstart, small_run, "epochs=3"), resume=True, hooks=[])
    assert resumed.state.step == stopped.state.step
    resumed.train()
    assert same(arrays_of(resumed), arrays_of(whole))


def test_resuming_a_complete_run_does_nothing(quickstart, small_run, capsys):
    folder = train(run_of(quickstart, small_run)).folder
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*")}
    capsys.readouterr()
    train(run_of(quickstart, small_run), resume=True)
    assert "this run is complete" in capsys.readouterr().out
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("*")} == before


def test_a_run_is_not_trained_over(quickstart, small_run):
    train(run_of(quickstart, small_run))
    with pytest.raises(PposeError, match="holds a run already: --resume"):
        train(run_of(quickstart, small_run))


def test_changed_data_is_not_resumed(quickstart, small_run, people, tmp_path):
    annotations = tmp_path / "people.json"
    source = people / "annotations/person_keypoints_train.json"
    annotations.write_bytes(source.read_bytes())
    override = f"train_dataset.anno_path={annotations}"
    prepare(run_of(quickstart, small_run, override), hooks=[]).save()
    data = json.loads(source.read_text())
    annotations.write_text(json.dumps(data | {"annotations": data["annotations"][:5]}))
    with pytest.raises(WeightsError, match="epochs of 3 steps, but now they have 1"):
        prepare(run_of(quickstart, small_run, override), resume=True, hooks=[])


@pytest.mark.parametrize("change", ["weights=other", "flip_test=false", "workers=1", "log_every=9"])
def test_what_does_not_change_training_may_change_before_resuming(quickstart, small_run, change):
    prepare(run_of(quickstart, small_run), hooks=[]).save()
    prepare(run_of(quickstart, small_run, change), resume=True, hooks=[])


class StopAt(Hook):
    """Sends the signal of Ctrl-C at one step."""

    def __init__(self, step):
        self.step = step

    def after_step(self, trainer, report):
        if trainer.state.step == self.step:
            signal.raise_signal(signal.SIGINT)


@pytest.mark.parametrize("step", [1, 3, 4])
def test_ctrl_c_saves_and_resuming_gives_the_run_that_was_not_stopped(
    quickstart, small_run, step, capsys
):
    whole = prepare(run_of(quickstart, small_run), hooks=[])
    whole.train()
    stopped = prepare(run_of(quickstart, small_run), hooks=[StopAt(step)])
    with pytest.raises(KeyboardInterrupt):
        stopped.train()
    assert f"saved at step {step} of 6: --resume" in capsys.readouterr().out
    resumed = prepare(run_of(quickstart, small_run), resume=True, hooks=[])
    assert resumed.state.step == step
    resumed.train()
    assert same(arrays_of(resumed), arrays_of(whole))


def test_resuming_needs_a_state_of_the_same_run(quickstart, small_run, tmp_path):
    with pytest.raises(FileNotFoundError, match="nothing to resume"):
        train(run_of(quickstart, small_run), resume=True)
    trainer = prepare(run_of(quickstart, small_run), hooks=[])
    trainer.save()
    with pytest.raises(WeightsError, match="another 'batch_size': 8 then, 4 now"):
        prepare(run_of(quickstart, small_run, "batch_size=4"), resume=True, hooks=[])


def test_nan_stops_with_the_people_named_and_the_weights_whole(quickstart, small_run):
    trainer = prepare(run_of(quickstart, small_run), hooks=[])
    before = arrays_of(trainer)
    (batch,), _ = next(trainer.data.batches())
    batch["target"] = batch["target"] * float("nan")
    with pytest.raises(DivergedError, match=r"step 0: the loss 'heatmap' is nan.*jpg \(id"):
        trainer.run_step([batch])
    weights = {k for k in before if not k.endswith(("_mean", "_variance"))}
    after = arrays_of(trainer)
    assert all(np.array_equal(before[k], after[k]) for k in weights)


def test_the_schedule_sets_the_learning_rate(quickstart, small_run):
    run = run_of(quickstart, small_run, "schedule={type: LinearDecay}", "optimizer.lr=0.001")
    trainer = prepare(run, hooks=[])
    rates = [trainer.run_step(batch).lr for batch, _ in trainer.data.batches()]
    assert np.allclose(rates, 0.001 * np.linspace(1, 0, len(rates), endpoint=False))


def test_pretrained_weights_are_where_training_starts(quickstart, small_run, tmp_path, capsys):
    first = train(run_of(quickstart, small_run))
    path = first.folder / "last.safetensors"
    more = (f"pretrain_weights={path}", f"output_dir={tmp_path}/second", "optimizer.lr=1e-9")
    second = train(run_of(quickstart, small_run, *more))
    assert "loaded" in capsys.readouterr().out
    drift = [
        np.abs(p.numpy() - q.numpy()).max()
        for p, q in zip(
            first.state.network.parameters(), second.state.network.parameters(), strict=True
        )
        if not p.stop_gradient
    ]
    assert max(drift) < 1e-5


def test_the_seed_sets_the_initial_weights(quickstart, small_run):
    one, two, other = (
        arrays_of(prepare(run_of(quickstart, small_run, f"seed={seed}"), hooks=[]))
        for seed in (0, 0, 1)
    )
    assert same(one, two)
    assert not same(one, other)


def test_the_best_weights_load_into_an_estimator(quickstart, small_run):
    trainer = train(run_of(quickstart, small_run))
    estimator = load(quickstart, overrides=small_run)
    best = read_arrays(trainer.folder / "best.safetensors")
    assert same({k: v.numpy() for k, v in estimator.runner.network.state_dict().items()}, best)


class Sabotage(Hook):
    """Makes a weight infinite."""

    def after_step(self, trainer, report):
        weight = next(iter(trainer.state.network.parameters()))
        weight.set_value(weight * float("inf"))


def test_weights_that_are_not_finite_are_not_saved(quickstart, small_run):
    sound = prepare(run_of(quickstart, small_run, "epochs=1"), hooks=[CheckpointHook()])
    sound.train()
    broken = prepare(
        run_of(quickstart, small_run), resume=True, hooks=[Sabotage(), CheckpointHook()]
    )
    with pytest.raises(DivergedError):
        broken.train()
    assert broken.checkpoints.steps == [sound.data.last_step]
    broken.state.step += 1
    with pytest.raises(DivergedError, match="is no longer finite, so this state is not saved"):
        broken.save()
    assert broken.checkpoints.steps == [sound.data.last_step]


class Noise(paddle.nn.Layer):
    """Random in training, as dropout is."""

    def forward(self, x):
        return x + 0.1 * paddle.randn(x.shape) if self.training else x


def noisy(quickstart, small_run, *more, resume=False):
    paddle.seed(0)
    run = run_of(quickstart, small_run, *more)
    run.model.final_conv = paddle.nn.Sequential(Noise(), run.model.final_conv)
    return prepare(run, resume=resume, hooks=[])


def test_resuming_repeats_what_is_random_inside_a_network(quickstart, small_run):
    whole = noisy(quickstart, small_run, "epochs=3")
    whole.train()
    stopped = noisy(quickstart, small_run, "epochs=1")
    stopped.train()
    stopped.save()
    paddle.randn([7])
    resumed = noisy(quickstart, small_run, "epochs=3", resume=True)
    resumed.train()
    assert same(arrays_of(resumed), arrays_of(whole))


def test_each_step_has_its_own_noise(quickstart, small_run):
    trainer = noisy(quickstart, small_run, "overfit_batch=true", "optimizer.lr=1e-30")
    losses = [trainer.run_step(batch).loss for batch, _ in trainer.data.batches()]
    assert len(set(losses)) == len(losses)


@pytest.mark.parametrize(
    "change",
    ["accumulate=2", "freeze=[final_conv]", "ema={type: EMA}", "optimizer.lr=1", "seed=3"],
)
def test_another_training_is_not_resumed(quickstart, small_run, change):
    prepare(run_of(quickstart, small_run), hooks=[]).save()
    key = re.match(r"\w+", change)[0]
    with pytest.raises(WeightsError, match=f"another '{key}'"):
        prepare(run_of(quickstart, small_run, change), resume=True, hooks=[])
