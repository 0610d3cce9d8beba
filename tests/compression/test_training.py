"""Training, evaluation, saving and resuming of quantized networks."""

import subprocess
import sys

import numpy as np
import pytest
from conftest import ROOT
from tiny_quantized_networks import large_weights

from ppose.compression.quantize import quantized_layers
from ppose.config import ConfigError
from ppose.evaluation import evaluate
from ppose.experiment import Experiment
from ppose.optim.batch_norm import BATCH_NORMS
from ppose.training.setup import prepare
from ppose.weights.tensor_names import float_names, is_quantized
from ppose.weights.weight_file import WeightsError, read_arrays, save_arrays


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
    return prepare(Experiment.from_file(config, [*overrides, *more], teacher), resume, hooks)


def arrays_of(network):
    return {name: tensor.numpy().copy() for name, tensor in network.state_dict().items()}


def same(one, other):
    return one.keys() == other.keys() and all(np.array_equal(one[k], other[k]) for k in one)


def test_training_starts_from_the_float_weights_and_changes_weights_and_clipping(floating):
    trainer = trainer_of(floating, hooks=[])
    start, source = arrays_of(trainer.state.network), read_arrays(floating[2])
    weights = [k for k in float_names(start) if k.endswith("weight")]
    assert all(np.array_equal(start[k], source[k]) for k in weights)
    # The clipping value has a gradient only if something is clipped.
    for layer in quantized_layers(trainer.state.network).values():
        layer._act_preprocess.alpha.set_value(np.float32([0.5]))
    start = arrays_of(trainer.state.network)
    trainer.train()
    end = arrays_of(trainer.state.network)
    kinds = ("conv.weight", "_act_preprocess.alpha", "_fake_quant_input._scale")
    for kind in kinds:
        names = [k for k in start if k.endswith(kind)]
        moved = [k for k in names if not np.array_equal(start[k], end[k])]
        assert len(moved) > len(names) / 2, kind


def test_best_and_last_weights_are_those_of_the_quantized_network(floating):
    trainer = trainer_of(floating, "ema={type: EMA, decay: 0.5}")
    trainer.train()
    last = read_arrays(trainer.folder / "last.safetensors")
    assert is_quantized(last)
    assert last.keys() == trainer.state.network.state_dict().keys()
    fresh = trainer.experiment.__class__(trainer.experiment.config)
    estimator = fresh.loaded_estimator(trainer.folder / "best.safetensors")
    assert quantized_layers(estimator.runner.network)
    scores = evaluate(estimator, fresh.val_dataset, fresh.metric, quiet=True)
    assert scores.ap == pytest.approx(trainer.state.best, abs=1e-9)


def test_resuming_is_exact(floating):
    more = ("ema={type: EMA, decay: 0.9}", "save_every=0.5")
    whole = trainer_of(floating, *more)
    whole.train()
    elsewhere = f"output_dir={whole.folder}2"
    part = trainer_of(floating, *more, elsewhere)
    for batches, _ in part.data.batches():
        part.run_step(batches)
        if part.state.step == 1:
            break
    part.save()
    resumed = trainer_of(floating, *more, elsewhere, resume=True)
    resumed.train()
    assert same(arrays_of(whole.state.network), arrays_of(resumed.state.network))
    files = [read_arrays(run.folder / "last.safetensors") for run in (whole, resumed)]
    assert same(*files)


def test_norms_are_calibrated_and_frozen_as_configured(floating):
    for calibrate, freeze in (("true", "true"), ("false", "true"), ("false", "false")):
        switches = (f"quantize.calibrate_norms={calibrate}", f"quantize.freeze_norms={freeze}")
        trainer = trainer_of(floating, *switches, hooks=[])
        norms = {
            f"{name}.{kind}"
            for name, layer in trainer.state.network.named_sublayers()
            if isinstance(layer, BATCH_NORMS)
            for kind in ("_mean", "_variance")
        }
        start, source = arrays_of(trainer.state.network), read_arrays(floating[2])
        calibrated = any(not np.array_equal(start[k], source[k]) for k in norms)
        assert calibrated == (calibrate == "true")
        trainer.run_step(next(trainer.data.batches())[0])
        end = arrays_of(trainer.state.network)
        assert all(np.array_equal(start[k], end[k]) for k in norms) == (freeze == "true")


def test_scales_are_not_trained(floating):
    """Trainable scales would make several devices wait for their gradients."""
    trainer = trainer_of(floating, hooks=[])
    trainer.run_step(next(trainer.data.batches())[0])
    own = set(float_names(trainer.state.network.state_dict()))
    trained = [n for n, p in trainer.state.network.named_parameters() if not p.stop_gradient]
    assert {n for n in trained if n not in own} == {n for n in trained if n.endswith(".alpha")}


def test_a_quantized_network_learns_from_a_teacher(family, floating, teacher_of):
    config, _, larger, layer = family
    teacher = teacher_of(config, larger, [{"student": layer, "teacher": layer, "weight": 1e3}])
    alone = trainer_of(floating, hooks=[])
    taught = trainer_of(floating, hooks=[], teacher=teacher)
    for trainer in (alone, taught):
        trainer.train()
    assert quantized_layers(taught.state.network)
    assert not same(arrays_of(alone.state.network), arrays_of(taught.state.network))


def test_float_and_quantized_weights_do_not_load_into_each_other(floating, tmp_path):
    config, overrides, source = floating
    quantized = Experiment.from_file(config, overrides)
    with pytest.raises(WeightsError, match="contains a float network"):
        quantized.loaded_estimator(source)
    path = tmp_path / "quantized.safetensors"
    save_arrays(path, arrays_of(quantized.model))
    plain = Experiment.from_file(config, [*overrides, "quantize=null"])
    with pytest.raises(WeightsError, match="contains a quantized network"):
        plain.loaded_estimator(path)
    with pytest.raises(WeightsError, match="contains a quantized network"):
        trainer_of(floating, "quantize=null", f"pretrain_weights={path}", hooks=[])


def test_quantized_weights_are_not_calibrated_again(floating, tmp_path):
    first = trainer_of(floating, hooks=[])
    first.train()
    path = tmp_path / "quantized.safetensors"
    save_arrays(path, arrays_of(first.state.network))
    again = trainer_of(floating, f"pretrain_weights={path}", hooks=[])
    assert same(arrays_of(first.state.network), arrays_of(again.state.network))


def test_a_static_graph_is_an_error(floating):
    with pytest.raises(ConfigError, match="to_static: quantize needs the network layer by layer"):
        trainer_of(floating, "to_static=true", hooks=[])


def tool(name, *arguments):
    command = [sys.executable, f"tools/{name}.py", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=False)


def test_post_training_quantization_from_the_command_line(
    quickstart, small_run, floating, tmp_path
):
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
    assert "contains a quantized network" in done.stderr
