"""Loading of bundles, and the errors for invalid ones."""

import shutil

import pytest
import yaml
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
        ("padding: 1.1", "padding: -1", "crop: padding"),
        (
            "  channels: 17",
            "  channels: 18",
            "channels: 18 in the network, but 17 in codec or crop",
        ),
        ("  stride: 4", "  stride: 2", "stride: 2 in the network, but 4 in codec or crop"),
        ("  stride: 4", "  stride: 0", r"network\.stride: expected 1 or more"),
        (
            "  size_multiple: 32",
            "  size_multiple: 0",
            r"network\.size_multiple: expected 1 or more",
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


def without_mirrors(bundle, names=None):
    path = bundle / DESCRIPTION
    about = yaml.safe_load(path.read_text(encoding="utf-8"))
    skeleton = about["codec"]["skeleton"]
    for i, joint in enumerate(skeleton["joints"]):
        joint["mirror"] = None
        joint["name"] = f"{names}{i}" if names else joint["name"]
    skeleton["limbs"] = []
    path.write_text(yaml.safe_dump(about), encoding="utf-8")


def test_pairs_of_an_older_bundle_are_found_in_the_names(bundle, capsys):
    expected = Bundle(bundle).codec.skeleton.mirror_index
    assert capsys.readouterr().err == ""
    without_mirrors(bundle)
    assert (Bundle(bundle).codec.skeleton.mirror_index == expected).all()
    assert "mirror pairs found in the names: left_eye/right_eye" in capsys.readouterr().err


def test_a_flip_test_without_pairs_is_refused(bundle):
    without_mirrors(bundle, names="point")
    with pytest.raises(BundleError, match=r"pose\.yml: flip_test: codec: .* no mirror pairs.*none"):
        Bundle(bundle)
    path = bundle / DESCRIPTION
    about = yaml.safe_load(path.read_text(encoding="utf-8"))
    about["codec"]["skeleton"]["mirror"] = "none"
    path.write_text(yaml.safe_dump(about), encoding="utf-8")
    assert Bundle(bundle).flip_test
    del about["codec"]["skeleton"]["mirror"]
    path.write_text(yaml.safe_dump(about | {"flip_test": False}), encoding="utf-8")
    assert not Bundle(bundle).flip_test, "as it was"


def test_billion_laughs(bundle):
    levels = "".join(f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]\n" for i in range(1, 12))
    path = bundle / DESCRIPTION
    path.write_text("a0: &a0 [1]\n" + levels + path.read_text(encoding="utf-8"), encoding="utf-8")
    with pytest.raises(BundleError, match="more than 100000 values"):
        Bundle(bundle)
