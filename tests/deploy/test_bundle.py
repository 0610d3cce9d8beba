"""Loading of bundles, and the errors for invalid ones."""

import shutil

import pytest
from conftest import ROOT

from ppose.deploy.bundle import DESCRIPTION, Bundle, BundleError
from ppose.experiment import Experiment
from ppose.export.write_bundle import export_bundle


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    folder = tmp_path_factory.mktemp("bundle")
    small = "{type: HRNet, width: 4, modules: [1, 1, 1], blocks: 1, stem_width: 8, "
    experiment = Experiment.from_file(
        ROOT / "configs" / "quickstart.yml",
        [f"model.backbone={small}stage1_width: 4, stage1_blocks: 1}}", "input_size=[64, 64]"],
    )
    export_bundle(experiment, folder)
    return folder


@pytest.fixture
def bundle(exported, tmp_path):
    return shutil.copytree(exported, tmp_path / "bundle")


def replace_in_description(bundle, old, new):
    path = bundle / DESCRIPTION
    text = path.read_text(encoding="utf-8")
    assert old in text
    path.write_text(text.replace(old, new, 1), encoding="utf-8")


def test_valid_bundle(bundle):
    loaded = Bundle(bundle)
    assert loaded.network.files.keys() == {"paddle", "onnx"}
    assert loaded.size["onnx"] == (bundle / "model.onnx").stat().st_size


def test_missing_folder(tmp_path):
    with pytest.raises(BundleError, match="nowhere: no such folder; .* `ppose export`"):
        Bundle(tmp_path / "nowhere")


def test_another_folder(tmp_path):
    (tmp_path / "weights.pdparams").touch()
    with pytest.raises(BundleError, match=r"no pose\.yml, but weights\.pdparams"):
        Bundle(tmp_path)


@pytest.mark.parametrize("name", ["model.pdmodel", "model.pdiparams", "model.onnx"])
def test_missing_or_damaged_file(bundle, name):
    path = bundle / name
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    with pytest.raises(BundleError, match=f"{name}: damaged, or from another export"):
        Bundle(bundle)
    path.unlink()
    with pytest.raises(BundleError, match=f"{name}: missing; export the network again"):
        Bundle(bundle)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("ppose bundle 1", "ppose bundle 99", "form: expected 'ppose bundle 1'"),
        ("  stride: 4", "  stride: four", r"network\.stride: expected int"),
        ("type: Heatmap", "type: Heatmaps", r"codec\.type: nothing is registered as 'Heatmaps'"),
        ("refine: dark", "refine: half", r"codec\.refine: expected one of"),
        ("padding: 1.1", "padding: -1", r"crop\.padding: expected float above 0"),
        (
            "  channels: 17",
            "  channels: 18",
            "channels: 18 in the network, but 17 in codec or crop",
        ),
        ("  stride: 4", "  stride: 2", "stride: 2 in the network, but 4 in codec or crop"),
        ("  stride: 4", "  stride: 0", r"network\.stride: expected int in 1\.\."),
        (
            "  size_multiple: 32",
            "  size_multiple: 0",
            r"network\.size_multiple: expected int in 1\.\.",
        ),
        ("input: [-1, 64, 64, 3]", "input: [-1, 64, 32, 3]", "input: .* in the network"),
        ("gives: maps", "gives: peaks", "need maps, not peaks"),
        ("flip_test: ", "flip_tests: ", "flip_test"),
        ("[model.onnx]", "[../model.onnx]", "is not in the bundle"),
        ("name: quickstart", "name: [", "not valid YAML"),
        ("name: quickstart", "name: !!python/object/apply:os.getcwd []", "not valid YAML"),
    ],
)
def test_invalid_description(bundle, old, new, message):
    replace_in_description(bundle, old, new)
    with pytest.raises(BundleError, match=message):
        Bundle(bundle)


def test_billion_laughs(bundle):
    levels = "".join(f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]\n" for i in range(1, 12))
    path = bundle / DESCRIPTION
    path.write_text("a0: &a0 [1]\n" + levels + path.read_text(encoding="utf-8"), encoding="utf-8")
    with pytest.raises(BundleError, match="more than 100000 values"):
        Bundle(bundle)
