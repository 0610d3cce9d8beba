"""A quantized network is what is trained, scored, saved and resumed."""

import subprocess
import sys

import numpy as np
import pytest
from conftest import ROOT
from slim.networks import large_weights

from ppose.api import load_chosen
from ppose.engine.evaluate import evaluate
from ppose.engine.norms import NORMS
from ppose.engine.trainer import Trainer
from ppose.experiment import Experiment
from ppose.registry import ConfigError
from ppose.slim.quantize import float_names, is_quantized, quantized_layers
from ppose.weightfile import WeightsError, read_arrays, save_arrays


@pytest.fixture
def floating(family, tmp_path):
    """Config and overrides of a quantized run that starts from float weights, and their file."""
    config, overrides, _, _ = family
    experiment = Experiment.from_file(config, overrides)
    path = tmp_path / "float.safetensors"
    save_arrays(path, large_weights(experiment.model))
    start = [f"pretrain_weights={path}", "quantize={calibration_batches: 1}", "quantize.exclude=[]"]
    return config, [*overrides, *start], path


def trainer_of(floating, *more, resume=False, hooks=None, teacher=None):
    config, overrides, _ = floating
    return Trainer(Experiment.from_file(config, [*overrides, *more], teacher), resume, hooks)


def arrays_of(network):
    return {name: tensor.numpy().copy() for name, tensor in network.state_dict().items()}


def same(one, other):
    return one.keys() == other.keys() and all(np.array_equal(one[k], other[k]) for k in one)


def test_training_starts_from_the_float_weights_and_moves_them_and_the_clipping(floating):
    trainer = trainer_of(floating, hooks=[])
    start, source = arrays_of(trainer.network), read_arrays(floating[2])
    weights = [k for k in float_names(start) if k.endswith("weight")]
    assert all(np.array_equal(start[k], source[k]) for k in weights)
    # Where nothing is clipped, there is nothing to learn about it.
    for layer in quantized_layers(trainer.network).values():
        layer._act_preprocess.alpha.set_value(np.float32([0.5]))
    start = arrays_of(trainer.network)
    trainer.train()
    end = arrays_of(trainer.network)
    kinds = ("conv.weight", "_act_preprocess.alpha", "_fake_quant_input._scale")
    for kind in kinds:
        names = [k for k in start if k.endswith(kind)]
        moved = [k for k in names if not np.array_equal(start[k], end[k])]
        assert len(moved) > len(names) / 2, kind


def test_the_best_and_last_weights_are_the_quantized_network_that_was_scored(floating):
    trainer = trainer_of(floating, "ema={type: EMA, decay: 0.5}")
    trainer.train()
    last = read_arrays(trainer.folder / "last.safetensors")
    assert is_quantized(last)
    assert last.keys() == trainer.network.state_dict().keys()
    fresh = trainer.experiment.__class__(trainer.experiment.config)
    estimator = load_chosen(fresh, trainer.folder / "best.safetensors")
    assert quantized_layers(estimator.runner.network)
    scores = evaluate(estimator, fresh.val_dataset, fresh.metric, quiet=True)
    assert scores.ap == pytest.approx(trainer.best, abs=1e-9)


def test_resuming_is_exact(floating):
    more = ("ema={type: EMA, decay: 0.9}", "save_every=0.5")
    whole = trainer_of(floating, *more)
    whole.train()
    elsewhere = f"output_dir={whole.folder}2"
    part = trainer_of(floating, *more, elsewhere)
    for batches, _ in part.batches():
        part.run_step(batches)
        if part.step == 1:
            break
    part.save()
    resumed = trainer_of(floating, *more, elsewhere, resume=True)
    resumed.train()
    assert same(arrays_of(whole.network), arrays_of(resumed.network))
    files = [read_arrays(run.folder / "last.safetensors") for run in (whole, resumed)]
    assert same(*files)


def test_norms_are_calibrated_and_frozen_as_asked(floating):
    for calibrate, freeze in (("true", "true"), ("false", "true"), ("false", "false")):
        switches = (f"quantize.calibrate_norms={calibrate}", f"quantize.freeze_norms={freeze}")
        trainer = trainer_of(floating, *switches, hooks=[])
        norms = {
            f"{name}.{kind}"
            for name, layer in trainer.network.named_sublayers()
            if isinstance(layer, NORMS)
            for kind in ("_mean", "_variance")
        }
        start, source = arrays_of(trainer.network), read_arrays(floating[2])
        calibrated = any(not np.array_equal(start[k], source[k]) for k in norms)
        assert calibrated == (calibrate == "true")
        trainer.run_step(next(trainer.batches())[0])
        end = arrays_of(trainer.network)
        assert all(np.array_equal(start[k], end[k]) for k in norms) == (freeze == "true")


def test_scales_are_not_trained(floating):
    """Paddle's quantizers would make them trainable; several devices then wait for gradients."""
    trainer = trainer_of(floating, hooks=[])
    trainer.run_step(next(trainer.batches())[0])
    own = set(float_names(trainer.network.state_dict()))
    trained = [n for n, p in trainer.network.named_parameters() if not p.stop_gradient]
    assert {n for n in trained if n not in own} == {n for n in trained if n.endswith(".alpha")}


def test_a_teacher_teaches_the_quantized_network(family, floating, teacher_of):
    config, _, larger, layer = family
    teacher = teacher_of(config, larger, [{"student": layer, "teacher": layer, "weight": 1e3}])
    alone = trainer_of(floating, hooks=[])
    taught = trainer_of(floating, hooks=[], teacher=teacher)
    for trainer in (alone, taught):
        trainer.train()
    assert quantized_layers(taught.network)
    assert not same(arrays_of(alone.network), arrays_of(taught.network))


def test_weights_of_the_other_kind_are_refused(floating, tmp_path):
    config, overrides, source = floating
    quantized = Experiment.from_file(config, overrides)
    with pytest.raises(WeightsError, match="holds a float network, and this config a quantized"):
        load_chosen(quantized, source)
    path = tmp_path / "quantized.safetensors"
    save_arrays(path, arrays_of(quantized.model))
    plain = Experiment.from_file(config, [*overrides, "quantize=null"])
    with pytest.raises(WeightsError, match="holds a quantized network, and this config a float"):
        load_chosen(plain, path)
    with pytest.raises(WeightsError, match="holds a quantized network, and this config a float"):
        trainer_of(floating, "quantize=null", f"pretrain_weights={path}", hooks=[])


def test_quantized_weights_are_not_calibrated_again(floating, tmp_path):
    first = trainer_of(floating, hooks=[])
    first.train()
    path = tmp_path / "quantized.safetensors"
    save_arrays(path, arrays_of(first.network))
    again = trainer_of(floating, f"pretrain_weights={path}", hooks=[])
    assert same(arrays_of(first.network), arrays_of(again.network))


def test_a_static_graph_is_refused(floating):
    with pytest.raises(ConfigError, match="to_static: quantize needs the network layer by layer"):
        trainer_of(floating, "to_static=true", hooks=[])


def tool(name, *arguments):
    command = [sys.executable, f"tools/{name}.py", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=False)


def test_calibration_alone_from_the_command_line(quickstart, small_run, floating, tmp_path):
    config, overrides, source = floating
    plain = [text for text in overrides if not text.startswith(("pretrain", "quantize"))]
    arguments = ["-c", config, "-o", *plain, "quantize={calibration_batches: 1}"]
    done = tool("quantize", *arguments, f"weights={source}", "--sensitivity", "--depth", "1")
    assert done.returncode == 0, done.stderr
    assert "float" in done.stdout and "for an error of maps of at most 0.05" in done.stdout
    found = tmp_path / "run" / "ptq.safetensors"
    assert is_quantized(read_arrays(found))
    done = tool("eval", *arguments, f"weights={found}")
    assert done.returncode == 0, done.stderr
    assert "AP" in done.stdout
    done = tool("eval", "-c", config, "-o", *plain, f"weights={found}")
    assert done.returncode == 1
    assert "holds a quantized network" in done.stderr
