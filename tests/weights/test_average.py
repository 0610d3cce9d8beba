"""Averaging of weights: from files and in training (SWA)."""

import subprocess
import sys

import numpy as np
import paddle
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ppose.experiment import Experiment
from ppose.optim.batch_norm import reestimate_batch_norm
from ppose.optim.swa import SWA
from ppose.training.setup import prepare, train
from ppose.utils.errors import PposeError
from ppose.weights.average import WeightAverage, average_files
from ppose.weights.weight_file import WeightsError, read_arrays, save_arrays


@given(st.lists(st.lists(st.floats(-10, 10), min_size=3, max_size=3), min_size=1, max_size=8))
def test_the_average_is_the_mean(rows):
    average = WeightAverage()
    for row in rows:
        average.add({"a": np.array(row, np.float32)})
    assert average.count == len(rows)
    assert np.allclose(average.mean["a"], np.mean(rows, 0), atol=1e-4)


def saved(folder, name, **arrays):
    path = folder / name
    save_arrays(path, {k: np.array(v, np.float32) for k, v in arrays.items()})
    return path


def test_files_are_averaged(tmp_path):
    sources = [saved(tmp_path, f"{i}.safetensors", a=[i, 2], b=[[3 * i]]) for i in range(3)]
    mean = average_files(sources)
    assert mean["a"].tolist() == [1, 2]
    assert mean["b"].tolist() == [[3]]


def test_files_of_other_networks_or_with_nan_are_reported(tmp_path):
    good = saved(tmp_path, "good.safetensors", a=[1, 2])
    for name, arrays, message in (
        ("other", {"b": [1, 2]}, "another network"),
        ("shape", {"a": [1, 2, 3]}, "another network"),
        ("nan", {"a": [1, np.nan]}, "1 of 2 values of 'a' are not finite"),
    ):
        with pytest.raises(WeightsError, match=message) as error:
            average_files([good, saved(tmp_path, f"{name}.safetensors", **arrays)])
        assert f"{name}.safetensors" in str(error.value)
    with pytest.raises(PposeError, match="at least two"):
        average_files([good])


def test_averaging_bfloat16(tmp_path):
    bits = [np.array(v, np.float32).view(np.uint32) >> 16 for v in ([1, 2], [3, 4])]
    sources = [tmp_path / f"{i}.pdparams" for i in range(2)]
    for source, values in zip(sources, bits, strict=True):
        save_arrays(source, {"a": values.astype(np.uint16)})
    assert average_files(sources)["a"].tolist() == [2, 3]


def test_reestimated_batch_norms_are_the_mean_over_batches():
    paddle.seed(0)
    network = paddle.nn.Sequential(paddle.nn.Conv2D(3, 4, 1), paddle.nn.BatchNorm2D(4))
    network.eval()
    images = [paddle.randn([2, 3, 8, 8]) * (i + 1) for i in range(5)]
    assert reestimate_batch_norm(network, images, batches=4) == 4
    features = [network[0](image).numpy() for image in images[:4]]
    expected = np.mean([f.mean((0, 2, 3)) for f in features], 0)
    assert np.allclose(network[1]._mean.numpy(), expected, atol=1e-5)
    assert not network.training
    assert not network[1].training
    assert network[1]._momentum == 0.9


def with_swa(quickstart, small_run, *more):
    swa = "swa={type: SWA, start_epoch: 1, lr: [1e-3, 1e-3], norm_batches: 2}"
    run = [*small_run, "epochs=3", "eval_every=9", swa]
    return Experiment.from_file(quickstart, [*run, *more])


def test_swa_averages_the_last_epochs_without_changing_the_run(quickstart, small_run, capsys):
    epochs = []
    trainer = prepare(with_swa(quickstart, small_run))

    class Keep(type(trainer.hooks[0])):
        def before_train(self, trainer):
            pass

        def after_epoch(self, trainer):
            epochs.append({k: v.numpy() for k, v in trainer.state.network.state_dict().items()})

    trainer.hooks.append(Keep())
    trainer.train()
    mean = read_arrays(trainer.folder / "swa.safetensors")
    weights = [p for p, v in trainer.state.network.named_parameters() if not v.stop_gradient]
    for name in weights:
        assert np.allclose(mean[name], (epochs[1][name] + epochs[2][name]) / 2, atol=1e-6), name
    state = {k: v.numpy() for k, v in trainer.state.network.state_dict().items()}
    assert all(np.array_equal(state[k], epochs[2][k]) for k in state)
    assert "mean of the weights of 2 epochs" in capsys.readouterr().out


def test_swa_has_its_own_learning_rate(quickstart, small_run):
    trainer = prepare(with_swa(quickstart, small_run), hooks=[])
    rates = [trainer.run_step(batch).lr for batch, _ in trainer.data.batches()]
    steps = trainer.data.steps_per_epoch
    assert rates == [2e-3] * steps + [1e-3] * 2 * steps


def test_the_learning_rate_is_cyclic():
    swa = SWA(10, every=3, lr=(4.0, 1.0))
    rates = [swa.learning_rate(epoch) for epoch in range(9, 17)]
    assert rates == [None, 4.0, 2.5, 1.0, 4.0, 2.5, 1.0, 4.0]
    assert [epoch for epoch in range(9, 17) if swa.takes(epoch)] == [13, 16]


def test_a_resumed_run_has_the_same_average(quickstart, small_run, tmp_path):
    whole = train(with_swa(quickstart, small_run, f"output_dir={tmp_path}/whole"))
    train(with_swa(quickstart, small_run, "epochs=2"))
    resumed = train(with_swa(quickstart, small_run), resume=True)
    for name in ("swa.safetensors", "last.safetensors"):
        one, two = read_arrays(whole.folder / name), read_arrays(resumed.folder / name)
        assert one.keys() == two.keys()
        assert all(np.array_equal(one[k], two[k]) for k in one), name


@pytest.mark.parametrize(
    "wrong",
    [
        {"start_epoch": -1},
        {"every": 0},
        {"lr": (0.0, 0.0)},
        {"lr": (1e-4, 1e-3)},
        {"lr": (1e-3, 1e-4)},
        {"norm_batches": 0},
    ],
)
def test_invalid_arguments_are_rejected(wrong):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        SWA(**{"start_epoch": 1} | wrong)


def tool(*arguments):
    command = [sys.executable, "tools/average.py", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_the_tool_averages_and_reestimates_norms(quickstart, small_run, tmp_path):
    folder = train(Experiment.from_file(quickstart, small_run)).folder
    sources = [folder / "best.safetensors", folder / "last.safetensors"]
    plain, measured = tmp_path / "plain.safetensors", tmp_path / "measured.safetensors"
    assert tool(*sources, "--output", plain).returncode == 0
    done = tool(*sources, "--output", measured, "-c", quickstart, "-o", *small_run)
    assert done.returncode == 0, done.stderr
    assert "norms measured on 3 batches" in done.stdout
    one, two = read_arrays(plain), read_arrays(measured)
    moved = {name for name in one if not np.array_equal(one[name], two[name])}
    assert moved
    assert all(name.endswith(("_mean", "_variance")) for name in moved)


def test_the_tool_does_not_overwrite_checkpoints(tmp_path):
    good = saved(tmp_path, "good.safetensors", a=[1, 2])
    other = saved(tmp_path, "other.safetensors", a=[3, 4])
    for arguments, message in (
        ([good, other, "--output", good], "is one of the checkpoints"),
        ([good, other, "--output", tmp_path / "mean.npz"], "written as .safetensors"),
        ([good, "--output", tmp_path / "mean.safetensors"], "at least two"),
        ([good, tmp_path / "none.safetensors", "--output", tmp_path / "m.safetensors"], "none"),
    ):
        done = tool(*arguments)
        assert done.returncode == 1
        assert message in done.stderr
        assert "Traceback" not in done.stderr
    assert read_arrays(good)["a"].tolist() == [1, 2]
