"""tools/convert.py, as a user types it."""

import os
import subprocess
import sys

import numpy as np
import pytest
from conftest import ROOT

from ppose.convert import convert_file as file
from ppose.convert.conversion import convert
from ppose.experiment import Experiment
from ppose.utils.errors import PposeError
from ppose.weights.loading import load_weights
from ppose.weights.weight_file import WeightsError, read_arrays, save_arrays

CONFIG = "configs/lite_hrnet_18_256x192_coco.yml"


def tool(*arguments, expect=0):
    command = [sys.executable, str(ROOT / "tools/convert.py"), *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, timeout=300)
    assert done.returncode == expect, done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    return done.stdout + done.stderr


@pytest.fixture
def source(lite, tmp_path):
    save_arrays(tmp_path / "in.safetensors", lite)
    return tmp_path / "in.safetensors"


@pytest.mark.parametrize("suffix", [".pdparams", ".safetensors"])
def test_converts_for_a_config(source, lite, tmp_path, suffix):
    output = tmp_path / "new" / f"out{suffix}"
    out = tool(source, output)
    assert f"{source}: mmpose, Lite-HRNet 'lite_18', 17 joints" in out
    assert f"ppose eval -c {CONFIG} -o weights={output}" in out
    assert len(out.splitlines()) < 8
    network = Experiment.from_file(ROOT / CONFIG).model
    load_weights(network, output)
    head = network.final_conv.weight.numpy()
    np.testing.assert_array_equal(head, lite["keypoint_head.final_layer.weight"])


def test_verbose_prints_every_tensor(source, lite, tmp_path):
    lines = tool(source, tmp_path / "out.pdparams", "--source", "mmpose", "--verbose").splitlines()
    shown = {line.split()[0]: line for line in lines}
    assert set(lite) <= shown.keys()
    variance = shown["backbone.stem.conv1.bn.running_var"].split()
    assert variance[1:] == ["backbone.stem.conv1.norm._variance", "[32]"]


def test_refuses_to_overwrite_unless_told(source, tmp_path):
    output = tmp_path / "out.pdparams"
    output.write_bytes(b"mine")
    assert "exists; give --force" in tool(source, output, expect=1)
    assert output.read_bytes() == b"mine"
    tool(source, output, "-f")
    assert read_arrays(output)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nowhere.pth", "out.pdparams"], "nowhere.pth"),
        (["in.safetensors", "out.pth"], r"expected a name that ends in .pdparams or .safetensors"),
        (["in.safetensors", "in.safetensors", "-f"], "is the checkpoint itself"),
        (["in.safetensors", "out.pdparams", "--source", "hrnet"], "'mmpose', not of 'hrnet'"),
        (["in.safetensors", "out.pdparams", "--key", "ema"], "leave out --key"),
        (["text.pth", "out.pdparams"], "no kind of checkpoint|not a file of weights"),
    ],
)
def test_errors_leave_everything_as_it_was(source, tmp_path, arguments, message):
    (tmp_path / "text.pth").write_text("weights")
    before = {path: path.read_bytes() for path in tmp_path.iterdir()}
    paths = [tmp_path / a if "." in a else a for a in arguments]
    out = tool(*paths, expect=1)
    assert out.startswith("error: ")
    assert any(part in out for part in message.split("|"))
    assert {path: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_a_checkpoint_that_does_not_fit_writes_nothing(lite, tmp_path):
    name = "backbone.stage2.1.fuse_layers.3.0.2.3.bias"
    del lite[name]
    save_arrays(tmp_path / "in.safetensors", lite)
    out = tool(tmp_path / "in.safetensors", tmp_path / "out.pdparams", expect=1)
    assert f"1 missing: {name}" in out
    assert [path.name for path in tmp_path.iterdir()] == ["in.safetensors"]


@pytest.mark.skipif(os.geteuid() == 0, reason="root writes everywhere")
def test_a_folder_without_permission(source, tmp_path):
    (tmp_path / "closed").mkdir(mode=0o500)
    assert "closed" in tool(source, tmp_path / "closed" / "out.pdparams", expect=1)


def test_a_folder_that_is_a_file(source):
    assert "error: " in tool(source, source / "out.pdparams", expect=1)


@pytest.mark.parametrize("difference", [0.002, float("nan"), float("inf")])
def test_networks_that_differ_write_nothing(source, tmp_path, monkeypatch, difference):
    monkeypatch.setattr(file, "largest_difference", lambda *_: difference)
    with pytest.raises(WeightsError, match="differs from the published"):
        file.convert_file(source, tmp_path / "out.pdparams", verify=True)
    assert not (tmp_path / "out.pdparams").exists()


def test_verify_without_pytorch_says_what_to_install(source, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(PposeError, match="pip install torch"):
        file.convert_file(source, tmp_path / "out.pdparams", verify=True)
    assert not (tmp_path / "out.pdparams").exists()


def test_a_pytorch_file_with_verify(lite, tmp_path):
    torch = pytest.importorskip("torch")
    state = {f"module.{name}": torch.from_numpy(array) for name, array in lite.items()}
    torch.save({"epoch": 210, "state_dict": state}, tmp_path / "in.pth")
    out = tool(tmp_path / "in.pth", tmp_path / "out.safetensors", "--verify")
    assert "taken: state_dict; not taken: epoch" in out
    found = float(out.split("largest difference to PyTorch: ")[1].split()[0])
    assert 0 < found < 1e-5
    written, expected = read_arrays(tmp_path / "out.safetensors"), convert(lite).arrays
    assert all(np.array_equal(written[name], expected[name]) for name in expected)


def test_pytorch_is_imported_only_when_it_is_used():
    pytest.importorskip("torch")
    code = "import sys, ppose.convert.convert_file; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert done.stdout.strip() == "False", done.stderr


def test_help_teaches():
    out = tool("--help")
    for word in (
        "simplepose",
        "hrnet",
        "mmpose",
        "--verify",
        "pip install torch",
        ".safetensors",
    ):
        assert word in out
