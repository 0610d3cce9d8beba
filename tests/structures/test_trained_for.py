"""What weights were trained for travels with them, and is checked where they are used."""

import json
import shutil
from dataclasses import replace

import pytest

import ppose
from ppose.commands.average import write_average
from ppose.commands.eval import evaluate_weights
from ppose.deploy.bundle import Bundle, BundleError
from ppose.experiment import Experiment
from ppose.export.write_bundle import export_bundle
from ppose.structures.trained_for import KEY, TrainedFor, check_weights, size_in_name
from ppose.weights.weight_file import WeightsError, read_metadata, read_safetensors, save_arrays

CROPS = TrainedFor((192, 256), ("a", "b"), (0.5, 0.5, 0.5), (0.2, 0.2, 0.2), drawn=False)
QUICKSTART = "configs/weights/quickstart.safetensors"


@pytest.mark.parametrize("trained", [CROPS, replace(CROPS, input_size=None, drawn=True)])
def test_round_trip(trained):
    assert TrainedFor.read(trained.to_dict()) == trained
    assert TrainedFor.read(trained.metadata()[KEY]) == trained


@pytest.mark.parametrize(
    "facts", [None, "", "{", "[]", "1", "null", {}, CROPS.to_dict() | {"mean": 1}, "[" * 9999]
)
def test_older_and_foreign_files_tell_nothing(facts):
    assert TrainedFor.read(facts) is None


@pytest.mark.parametrize(
    ("name", "size"),
    [
        ("tinypose_128x96.pdparams", (96, 128)),
        ("https://host/d/hrnet_w32_coco_256x192-c78dce93_20200708.pth?x=64x64", (192, 256)),
        ("best.safetensors", None),
        ("folder_256x192/best.safetensors", None),
        ("from_256x192_to_384x288.pdparams", None),
        ("kernel_3x3_12x12.pdparams", None),
    ],
)
def test_size_in_a_name(name, size):
    assert size_in_name(name) == size


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"input_size": (96, 128)}, "inputs of 192x256 (width x height), not 96x128"),
        ({"joints": ("b", "a")}, "the joints a, b (2), not b, a (2)"),
        ({"mean": (0.4, 0.5, 0.5)}, "pixels of mean (0.5, 0.5, 0.5)"),
        ({"std": (0.1, 0.2, 0.2)}, "std (0.2, 0.2, 0.2), not"),
        ({}, None),
        ({"drawn": True}, None),
        ({"input_size": None}, None),
    ],
)
def test_what_differs_is_named(change, named):
    wrong = check_weights("w.safetensors", CROPS.metadata(), replace(CROPS, **change))
    assert (named in wrong) if named else wrong is None


@pytest.mark.parametrize(
    ("overrides", "named"),
    [
        (["input_size=[192,256]"], "trained for inputs of 96x128"),
        (["normalize.mean=[0.5,0.5,0.5]"], "trained for pixels of mean"),
    ],
)
def test_weights_of_another_config_are_refused(overrides, named):
    with pytest.raises(WeightsError, match=named):
        Experiment.from_file("quickstart", overrides).load_weights()


def test_a_published_name_is_checked(tmp_path):
    foreign = tmp_path / "tinypose_256x192.safetensors"
    save_arrays(foreign, read_safetensors(QUICKSTART)[0])
    with pytest.raises(WeightsError, match="its name tells of inputs of 192x256"):
        Experiment.from_file("quickstart").load_weights(foreign)


def test_training_calibration_average_and_export_pass_it_on(quickstart, small_run, tmp_path):
    from ppose.training.post_training import quantize_trained
    from ppose.training.setup import train

    trainer = train(Experiment.from_file(quickstart, small_run))
    run, folder = trainer.experiment, trainer.folder
    assert run.trained_for.drawn
    _, quantized = quantize_trained(Experiment.from_file(quickstart, small_run))
    write_average(
        [folder / "best.safetensors", folder / "last.safetensors"], folder / "mean.safetensors"
    )
    for path in (folder / "best.safetensors", folder / "mean.safetensors", quantized):
        assert TrainedFor.read(read_metadata(path)[KEY]) == run.trained_for, path

    again = Experiment.from_file(quickstart, small_run)
    again.load_weights(folder / "best.safetensors")
    bundle = export_bundle(again, tmp_path / "bundle", ["onnx"])
    assert TrainedFor.read(bundle.about["weights"][KEY]) == run.trained_for
    assert bundle.caution == run.trained_for.caution


def test_weights_for_different_things_are_not_averaged(tmp_path):
    arrays = read_safetensors(QUICKSTART)[0]
    paths = [tmp_path / name for name in ("a.safetensors", "b.safetensors")]
    for path, size in zip(paths, [(96, 128), (192, 256)], strict=True):
        save_arrays(path, arrays, replace(CROPS, input_size=size).metadata())
    with pytest.raises(WeightsError, match=r"b.safetensors, unlike .*a.safetensors, was trained"):
        write_average(paths, tmp_path / "c.safetensors")


def test_weights_of_drawn_people_say_so_but_not_on_drawn_people(people, small_run, capsys):
    drawn = [text for text in small_run if text.startswith("val_dataset.")]
    evaluate_weights(Experiment.from_file("quickstart", drawn))
    assert "drawn people only" not in capsys.readouterr().out

    path = people / "annotations" / "person_keypoints_val.json"
    foreign = json.loads(path.read_text())
    del foreign["info"]
    other = path.with_name("foreign.json")
    other.write_text(json.dumps(foreign))
    evaluate_weights(Experiment.from_file("quickstart", [*drawn, f"val_dataset.anno_path={other}"]))
    assert "drawn people only" in capsys.readouterr().out

    ppose.load("quickstart")
    assert "drawn people only" in capsys.readouterr().out


@pytest.mark.parametrize("name", ["quickstart", "imhn_quickstart"])
def test_what_ships_is_marked(name):
    experiment = Experiment.from_file(name)
    experiment.load_weights()
    assert experiment.weights_trained_for.drawn
    assert Bundle(f"configs/weights/bundles/{name}").caution


@pytest.mark.parametrize(
    ("old", "new", "named"),
    [
        (
            "[nose, left_eye, right_eye,",
            "[nose, right_eye, left_eye,",
            "the joints nose, right_eye",
        ),
        (
            "    input_size: [96, 128]\n    joints",
            "    input_size: [192, 256]\n    joints",
            "inputs of 192x256",
        ),
    ],
)
def test_a_bundle_of_weights_for_another_use_is_refused(tmp_path, old, new, named):
    folder = shutil.copytree("configs/weights/bundles/quickstart", tmp_path / "bundle")
    text = (folder / "pose.yml").read_text()
    assert text.count(old) == 1
    (folder / "pose.yml").write_text(text.replace(old, new, 1))
    with pytest.raises(BundleError, match=f"its weights were trained for {named}"):
        Bundle(folder)
