"""Each switch of training does what it says; each of these fails when its switch does nothing."""

import json
import subprocess
import sys

import numpy as np
import paddle
import pytest
from small_trainer import trainer_of

from ppose.config import ConfigError
from ppose.data.problems import DataError
from ppose.experiment import Experiment
from ppose.training.hooks.checkpointing import CheckpointHook
from ppose.training.hooks.scoring import EvaluationHook
from ppose.training.hooks.stopping import EarlyStopHook
from ppose.training.setup import prepare
from ppose.training.trainer import Hook
from ppose.weights.weight_file import read_arrays, read_metadata


def weights_after(config, *more):
    trainer = trainer_of(config, *more)
    trainer.train()
    return {k: v.numpy() for k, v in trainer.state.network.state_dict().items()}


def norms_in(network):
    kinds = (paddle.nn.BatchNorm2D,)
    return [f"^{n}\\." for n, layer in network.named_sublayers() if isinstance(layer, kinds)]


def test_accumulated_batches_are_one_large_batch(config):
    """Batch norm alone sees the parts: frozen, nothing tells them from the whole."""
    path, overrides = config
    norms = norms_in(Experiment.from_file(path, overrides).model)
    frozen = f"freeze={json.dumps(norms)}"
    rate = ("optimizer={type: SGD, lr: 1e-2, weight_decay: 0}", "epochs=2", frozen)
    whole = weights_after(config, *rate, "batch_size=99")
    samples = len(trainer_of(config).data.dataset)
    for parts in (3, 5):
        size = -(-samples // parts)
        split = weights_after(config, *rate, f"batch_size={size}", f"accumulate={parts}")
        assert all(np.allclose(whole[k], split[k], rtol=1e-4, atol=1e-6) for k in whole)
    start = trainer_of(config, *rate).state.network.state_dict()
    assert any(not np.allclose(whole[k], start[k].numpy(), atol=1e-5) for k in whole)


def test_more_parts_than_samples_are_refused(config):
    with pytest.raises(DataError, match="cannot be shared by 1 devices x accumulate 99"):
        trainer_of(config, "accumulate=99")


def test_accumulation_makes_fewer_steps_of_more_samples(config):
    three = trainer_of(config, "batch_size=2", "accumulate=3")
    assert three.data.steps_per_epoch == -(-len(three.data.dataset) // 6)
    batches, _ = next(three.data.batches())
    assert len(batches) == 3
    assert three.run_step(batches).samples == sum(len(b["index"]) for b in batches)


def test_the_learning_rate_counts_devices_and_accumulation(config):
    base = ("optimizer.lr=1e-3", "optimizer.base_batch=12", "schedule={type: Constant}")
    trainer = trainer_of(config, *base, "batch_size=2", "accumulate=2")
    batches, _ = next(trainer.data.batches())
    assert trainer.run_step(batches).lr == pytest.approx(1e-3 * 4 / 12)


def test_clipping_bounds_the_step_and_the_report_has_the_norm_before(config):
    sgd = "optimizer={type: SGD, lr: 1.0, momentum: 0, weight_decay: 0, clip_norm: 1e-3}"
    trainer = trainer_of(config, sgd)
    before = {k: v.numpy().copy() for k, v in trainer.state.network.named_parameters()}
    batches, _ = next(trainer.data.batches())
    report = trainer.run_step(batches)
    trained = {k: v for k, v in trainer.state.network.named_parameters() if not v.stop_gradient}
    moved = np.sqrt(sum(np.square(v.numpy() - before[k]).sum() for k, v in trained.items()))
    assert report.grad_norm > 1e-3
    assert moved == pytest.approx(1e-3, rel=1e-2)


def test_the_norm_is_measured_in_steps_that_are_logged(config):
    trainer = trainer_of(config, "log_every=2", "batch_size=4")
    norms = [trainer.run_step(b).grad_norm for b, _ in trainer.data.batches()]
    logged = [trainer.is_logged(step) for step in range(1, len(norms) + 1)]
    assert [norm is not None for norm in norms] == logged
    assert not all(logged)


def test_the_moving_average_is_evaluated_and_saved(config):
    trainer = trainer_of(config, "ema={type: EMA, decay: 0.5, warmup: 0}", hooks=[EvaluationHook()])
    expected = {k: v.numpy().copy() for k, v in trainer.state.network.state_dict().items()}
    for batches, _ in trainer.data.batches():
        trainer.run_step(batches)
        for name, tensor in trainer.state.network.state_dict().items():
            expected[name] = 0.5 * expected[name] + 0.5 * tensor.numpy()
    own = {k: v.numpy() for k, v in trainer.state.network.state_dict().items()}
    trainer.hooks[0].after_epoch(trainer)
    best = read_arrays(trainer.folder / "best.safetensors")
    assert all(np.allclose(best[k], expected[k], atol=1e-5) for k in own)
    assert not all(np.allclose(best[k], own[k], atol=1e-5) for k in own)
    after = {k: v.numpy() for k, v in trainer.state.network.state_dict().items()}
    assert all(np.array_equal(own[k], after[k]) for k in own), "training continues with its own"
    assert "EMA" in read_metadata(trainer.folder / "best.safetensors")["weights"]


def test_frozen_parts_stay(config):
    trainer = trainer_of(config)
    name = next(iter(trainer.state.network.state_dict())).rpartition(".")[0].replace(".", r"\.")
    before = {k: v.numpy().copy() for k, v in trainer.state.network.state_dict().items()}
    after = weights_after(config, f"freeze=['{name}']")
    same = [k for k in before if np.array_equal(before[k], after[k])]
    assert same == [k for k in before if k.startswith(name.replace("\\", ""))]


def test_rates_by_name(config):
    trainer = trainer_of(config)
    first, *_, last = (
        n for n, p in trainer.state.network.named_parameters() if not p.stop_gradient
    )
    sgd = "{type: SGD, lr: 1e-2, momentum: 0, weight_decay: 0"
    before = {k: v.numpy().copy() for k, v in trainer.state.network.named_parameters()}
    plain = trainer_of(config, f"optimizer={sgd}}}")
    slow = trainer_of(config, f"optimizer={sgd}, lr_factors: {{'{last}': 0.25}}}}")
    for trainer in (plain, slow):
        trainer.run_step(next(trainer.data.batches())[0])
    moves = [
        {k: v.numpy() - before[k] for k, v in t.state.network.named_parameters()}
        for t in (plain, slow)
    ]
    assert np.allclose(moves[0][last] * 0.25, moves[1][last], rtol=1e-2, atol=1e-7)
    assert np.allclose(moves[0][first], moves[1][first], rtol=1e-3, atol=1e-7)
    assert np.abs(moves[0][last]).max() > 1e-6


class FallingScores(Hook):
    """Makes the first evaluation the best one."""

    def after_evaluation(self, trainer, scores, what):
        trainer.state.best = 1.0


def test_early_stop_ends_the_run_saves_it_and_is_not_resumed_into(config, capsys):
    stop = ("early_stop={type: EarlyStop, patience: 2}", "epochs=9", "eval_every=1")
    hooks = [EvaluationHook(), FallingScores(), EarlyStopHook(), CheckpointHook()]
    trainer = trainer_of(config, *stop, hooks=hooks)
    trainer.train()
    assert trainer.epoch == 3, "one best and two after it"
    assert "stopped early: no better AP in 2 evaluations" in capsys.readouterr().out
    path, overrides = config
    resumed = prepare(Experiment.from_file(path, [*overrides, *stop]), resume=True, hooks=[])
    assert resumed.epoch == 3
    assert resumed.is_over
    patient = Experiment.from_file(path, [*overrides, *stop, "early_stop.patience=3"])
    assert not prepare(patient, resume=True, hooks=[]).is_over
    assert trainer_of(config, "epochs=5").data.last_step == 5 * trainer.data.steps_per_epoch


def test_overfitting_sees_one_batch_only_and_learns_it(config):
    trainer = trainer_of(config, "overfit_batch=true", "epochs=12", "batch_size=4")
    seen, losses = set(), []
    for batches, _ in trainer.data.batches():
        seen.add(tuple(batches[0]["index"].tolist()))
        losses.append(trainer.run_step(batches).loss)
    assert len(seen) == 1
    assert len(losses) == trainer.data.last_step
    assert np.mean(losses[-3:]) < 0.6 * np.mean(losses[:3])


def test_a_static_graph_trains_to_the_same_weights(config):
    sgd = "optimizer={type: SGD, lr: 1e-2, clip_norm: 0.1}"
    eager = weights_after(config, sgd)
    static = trainer_of(config, sgd, "to_static=true")
    assert static._stepper.forward is not static.state.network
    calls = []
    static._stepper.forward.register_forward_post_hook(lambda *_: calls.append(1))
    static.train()
    assert len(calls) == static.data.last_step
    compiled = {k: v.numpy() for k, v in static.state.network.state_dict().items()}
    assert all(np.allclose(eager[k], compiled[k], rtol=1e-2, atol=1e-3) for k in eager)


def test_a_static_graph_is_not_what_is_evaluated(quickstart, small_run):
    trainer = trainer_of((quickstart, small_run), "to_static=true", hooks=[EvaluationHook()])
    trainer.train()
    assert trainer.state.best is not None
    assert type(trainer.state.network.forward).__name__ == "method"


@pytest.mark.parametrize("amp", ["fp16", "bf16"])
def test_half_precision_is_refused_where_paddle_ignores_it(config, amp):
    with pytest.raises(ConfigError, match=f"amp: {amp} needs a GPU"):
        trainer_of(config, f"amp={amp}")


@pytest.mark.parametrize(
    "wrong", ["amp=fp8", "amp_level=O3", "accumulate=0", "keep_checkpoints=0", "save_every=0"]
)
def test_values_out_of_range_are_refused(config, wrong):
    with pytest.raises(ConfigError, match=wrong.partition("=")[0]):
        trainer_of(config, wrong)


class Dropping(Hook):
    """Counts what a hook sees."""

    def __init__(self):
        self.closed = 0

    def after_step(self, trainer, report):
        raise OSError("no space left")

    def close(self, trainer):
        self.closed += 1


def test_hooks_are_closed_after_an_error(config):
    hook = Dropping()
    with pytest.raises(OSError, match="no space"):
        trainer_of(config, hooks=[hook]).train()
    assert hook.closed == 1


@pytest.mark.parametrize("every", [1, 0.34, 2])
def test_checkpoints_come_as_often_as_asked(quickstart, small_run, every):
    saved = []

    class Noted(CheckpointHook):
        def after_step(self, trainer, report):
            super().after_step(trainer, report)
            saved.append(trainer.checkpoints.steps)

        def after_epoch(self, trainer):
            super().after_epoch(trainer)
            saved.append(trainer.checkpoints.steps)

    more = (f"save_every={every}", "keep_checkpoints=2", "batch_size=3", "epochs=2")
    trainer = trainer_of((quickstart, small_run), *more, hooks=[Noted()])
    trainer.train()
    due = round(every * trainer.data.steps_per_epoch)
    expected = {*range(due, trainer.data.last_step + 1, due), trainer.data.last_step}
    assert {step for steps in saved for step in steps} == expected
    assert all(len(steps) <= 2 for steps in saved)


_PRODUCT = """
import sys
import ppose, os, numpy as np, paddle
from ppose.optim.determinism import make_deterministic
if sys.argv[1] == "true":
    make_deterministic()
print(os.environ.get("MKL_CBWR"))
"""


@pytest.mark.parametrize(("switch", "expected"), [("true", "AVX2,STRICT"), ("false", "None")])
def test_deterministic_sets_how_mkl_computes(switch, expected):
    done = subprocess.run(
        [sys.executable, "-c", _PRODUCT, switch], capture_output=True, text=True, check=True
    )
    assert done.stdout.split() == [expected]
