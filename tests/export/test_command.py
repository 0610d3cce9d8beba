"""`tools/export.py` keeps a bundle only if every backend finds in it what the network finds."""

import subprocess
import sys

import numpy as np
import pytest
from conftest import ROOT

from ppose.deploy.bundle import DESCRIPTION, Bundle
from ppose.engine.state import float_arrays
from ppose.errors import PposeError
from ppose.experiment import Experiment
from ppose.export import onnx
from ppose.export.command import ParityError, export
from ppose.export.parity import difference
from ppose.skeleton import COCO17
from ppose.structures import Poses
from ppose.weightfile import save_arrays

PICTURES = ROOT / "dataset" / "test_image"
BOXES = PICTURES / "boxes.json"


@pytest.fixture
def experiment(quickstart):
    """The network that ships: one that sees people, so that places mean something."""
    return Experiment.from_file(quickstart)


def test_backends_are_compared_and_the_bundle_kept(experiment, tmp_path, capsys):
    bundle = export(experiment, tmp_path / "x", pictures=PICTURES, bbox_file=BOXES)
    table = capsys.readouterr().out
    rows = [
        line.split() for line in table.splitlines() if line.startswith(("paddle", "onnx", "openv"))
    ]
    assert {row[0] for row in rows} == {"paddle", "onnxruntime", "openvino"}
    assert all(float(row[1]) < 0.05 and int(row[4]) > 100 for row in rows)
    assert bundle.about["weights"]["file"].endswith("quickstart.safetensors")
    assert [path.name for path in tmp_path.iterdir()] == ["x"]


def test_a_wrong_network_is_not_kept(experiment, tmp_path, monkeypatch):
    older = export(experiment, tmp_path / "x", ["onnx"], pictures=PICTURES, bbox_file=BOXES)
    before = {path.name: path.read_bytes() for path in older.folder.iterdir()}
    write = onnx.write_onnx

    def write_another(program, path):
        name = max(program.tensors, key=lambda name: program.tensors[name].size)
        program.tensors[name] = program.tensors[name] * np.float32(0.7)
        write(program, path)

    monkeypatch.setattr(onnx, "write_onnx", write_another)
    with pytest.raises(ParityError, match="onnxruntime, openvino: other joints"):
        export(experiment, tmp_path / "x", ["onnx"], pictures=PICTURES, bbox_file=BOXES)
    assert {path.name: path.read_bytes() for path in older.folder.iterdir()} == before
    export(
        *(experiment, tmp_path / "y", ["onnx"]),
        pictures=PICTURES,
        bbox_file=BOXES,
        tolerance=1e4,
    )


def test_one_picture_without_boxes_is_one_person(experiment, tmp_path):
    export(experiment, tmp_path, ["onnx"], pictures=PICTURES / "people.jpg")
    assert (tmp_path / DESCRIPTION).is_file()


def test_boxes_of_other_pictures(experiment, tmp_path):
    (tmp_path / "boxes.json").write_text("[]")
    with pytest.raises(PposeError, match="has no box for any of the"):
        export(experiment, tmp_path, pictures=PICTURES, bbox_file=tmp_path / "boxes.json")


def poses(*keypoints):
    keypoints = np.array(keypoints, np.float32).reshape(-1, 17, 3)
    return Poses.empty(COCO17) if not len(keypoints) else Poses(
        keypoints,
        np.ones(len(keypoints), np.float32),
        np.ones((len(keypoints), 4), np.float32),
        "test",
        COCO17,
    )  # fmt: skip


def test_differences_are_of_sure_joints_in_pixels_of_the_input():
    person = np.full((17, 3), 0.5)
    other = person.copy()
    other[3, :2] += (3, 4)
    other[5] = (100, 100, 0.1)
    unsure = person.copy()
    unsure[5, 2] = 0.1
    found = difference("it", [poses(unsure)], [poses(other)], [np.array([0.5])])
    assert found.largest == pytest.approx(2.5)
    assert found.mean == pytest.approx(2.5 / 16)
    assert found.joints == 16
    assert difference("it", [poses(person)], [poses()], [np.ones(1)]).largest == np.inf
    assert difference("it", [poses()], [poses()], [np.ones(0)]).largest == 0


def tool(*arguments):
    command = [sys.executable, str(ROOT / "tools" / "export.py"), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True)


def test_the_command_line(quickstart, small_run, tmp_path):
    fresh = Experiment.from_file(quickstart, small_run)
    weights = tmp_path / "weights.safetensors"
    save_arrays(weights, float_arrays(fresh.model.state_dict()))
    settings = ["-c", quickstart, "-o", *small_run, f"weights={weights}"]
    run = tool(*settings, "--output_dir", tmp_path / "x", "--format", "onnx", "--batch", 2)
    assert run.returncode == 0, run.stderr
    bundle = Bundle(tmp_path / "x")
    assert bundle.network.files == {"onnx": ["model.onnx"]}
    assert bundle.network.input[0] == 2


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["--format", "tflite"], 2, "expected paddle, onnx or paddle,onnx, found tflite"),
        (["--batch", "0"], 2, "--batch starts at 1"),
        (["--bbox_file", "boxes.json"], 2, "--bbox_file goes with --check"),
        (["-o", "weights=nowhere.pdparams"], 1, "nowhere.pdparams"),
        (["--check", "nowhere.jpg"], 1, "there is no picture or folder nowhere.jpg"),
        (["--peaks", "-o", "flip_test=true"], 1, "peaks: flip_test"),
    ],
)
def test_errors_are_one_line_without_a_trace(quickstart, tmp_path, arguments, code, message):
    run = tool("-c", quickstart, "--output_dir", tmp_path / "x", *arguments)
    assert run.returncode == code
    assert message in run.stderr
    assert "Traceback" not in run.stderr
    assert not (tmp_path / "x").exists()
