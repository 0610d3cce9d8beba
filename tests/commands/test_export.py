"""`tools/export.py` keeps a bundle only if every backend finds in it what the network finds."""

import shutil
import subprocess
import sys
from dataclasses import replace

import cv2
import numpy as np
import pytest
from conftest import ROOT

from ppose.deploy.bundle import DESCRIPTION, Bundle
from ppose.experiment import Experiment
from ppose.export import onnx
from ppose.export.checked_export import ParityError, export_checked
from ppose.export.parity import FLOAT, INT8, difference
from ppose.structures import Poses
from ppose.structures.skeleton import COCO17
from ppose.utils.errors import PposeError

PICTURES = ROOT / "dataset" / "test_image"
BOXES = PICTURES / "boxes.json"


@pytest.fixture
def experiment(quickstart):
    """The network that ships: one that sees people, so that places mean something."""
    return Experiment.from_file(quickstart)


def test_backends_are_compared_and_the_bundle_kept(experiment, tmp_path, capsys):
    bundle = export_checked(experiment, tmp_path / "x", pictures=PICTURES, bbox_file=BOXES)
    table = capsys.readouterr().out
    rows = [
        line.split() for line in table.splitlines() if line.startswith(("paddle", "onnx", "openv"))
    ]
    assert {row[0] for row in rows} == {"paddle", "onnxruntime", "openvino"}
    assert all(float(row[1]) < 0.05 and int(row[5]) > 100 for row in rows)
    assert bundle.about["weights"]["file"].endswith("quickstart.safetensors")
    assert [path.name for path in tmp_path.iterdir()] == ["x"]


def test_a_wrong_network_is_not_kept(experiment, tmp_path, monkeypatch):
    older = export_checked(experiment, tmp_path / "x", ["onnx"], pictures=PICTURES, bbox_file=BOXES)
    before = {path.name: path.read_bytes() for path in older.folder.iterdir()}
    write = onnx.write_onnx

    def write_another(program, path):
        name = max(program.tensors, key=lambda name: program.tensors[name].size)
        program.tensors[name] = program.tensors[name] * np.float32(0.7)
        write(program, path)

    monkeypatch.setattr(onnx, "write_onnx", write_another)
    with pytest.raises(ParityError, match="onnxruntime, openvino: other joints"):
        export_checked(experiment, tmp_path / "x", ["onnx"], pictures=PICTURES, bbox_file=BOXES)
    assert {path.name: path.read_bytes() for path in older.folder.iterdir()} == before
    export_checked(
        *(experiment, tmp_path / "y", ["onnx"]),
        pictures=PICTURES,
        bbox_file=BOXES,
        tolerance=1e4,
    )


def test_a_full_disk_leaves_the_bundle_that_is_there(tmp_path):
    folder = tmp_path / "bundle"
    shutil.copytree(ROOT / "configs/weights/bundles/quickstart", folder)
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    code = (
        "import resource, sys; from ppose.commands import main\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (1_000_000, 1_000_000)); main(sys.argv[1:])"
    )
    run = subprocess.run(
        [sys.executable, "-c", code, "export", "-c", "quickstart", f"--output_dir={folder}"],
        capture_output=True,
        text=True,
        cwd=ROOT,
    )
    [line] = run.stderr.splitlines()
    assert run.returncode == 1
    assert str(folder / "model.pdiparams") in line
    assert "1,000,000 bytes" in line
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before
    assert [path.name for path in tmp_path.iterdir()] == ["bundle"]


def test_one_picture_without_boxes_is_one_person(experiment, tmp_path):
    export_checked(experiment, tmp_path, ["onnx"], pictures=PICTURES / "people.jpg")
    assert (tmp_path / DESCRIPTION).is_file()


def test_boxes_of_other_pictures(experiment, tmp_path):
    (tmp_path / "boxes.json").write_text("[]")
    with pytest.raises(PposeError, match="has no box for any of the"):
        export_checked(experiment, tmp_path, pictures=PICTURES, bbox_file=tmp_path / "boxes.json")


def poses(*keypoints):
    keypoints = np.array(keypoints, np.float32).reshape(-1, 17, 3)
    return Poses.empty(COCO17) if not len(keypoints) else Poses(
        keypoints,
        np.ones(len(keypoints), np.float32),
        np.ones((len(keypoints), 4), np.float32),
        "test",
        COCO17,
    )  # fmt: skip


def compared(person, other, scale=1.0):
    people = [poses(person)], [poses() if other is None else poses(other)]
    return difference("it", *people, [np.array([scale])])


def test_differences_are_of_sure_joints_in_pixels_of_the_input():
    person = np.full((17, 3), 0.5)
    person[5, 2] = 0.1
    other = np.full((17, 3), 0.5)
    other[3, :2] += (3, 4)
    other[5] = (100, 100, 0.1)
    found = compared(person, other, 0.5)
    assert found.largest == pytest.approx(2.5)
    assert found.mean == pytest.approx(2.5 / 16)
    assert found.joints == 16
    assert difference("it", [poses()], [poses()], [np.ones(0)]).joints == 0


def changed(joint, column, value):
    person = np.full((17, 3), 0.9)
    person[joint, column] = value
    return person


@pytest.mark.parametrize(
    "other",
    [
        None,
        changed(0, 0, np.nan),
        changed(0, 2, np.nan),
        np.full((17, 3), np.nan),
        changed(0, 2, 0.3),
        changed(0, 1, 1.0),
    ],
    ids=["nobody", "place", "score", "all", "scored less", "moved"],
)
def test_what_is_refused(other):
    found = compared(np.full((17, 3), 0.9), other)
    assert not FLOAT.accepts(found)
    assert FLOAT.accepts(compared(np.full((17, 3), 0.9), np.full((17, 3), 0.9)))
    assert not replace(FLOAT, pixels=np.nan).accepts(found)


@pytest.mark.parametrize(("people", "right"), [(1, False), (40, True)])
def test_int8_is_held_to_the_mean(people, right):
    person = np.full((people, 17, 3), 0.9)
    other = person.copy()
    other[0, :, 0] += 30
    rows = difference("it", [poses(*person)], [poses(*other)], [np.ones(people)])
    assert rows.largest == pytest.approx(30)
    assert INT8.accepts(rows) == right
    assert not FLOAT.accepts(rows)


def test_pictures_without_people_compare_nothing(imhn_quickstart, tmp_path):
    experiment = Experiment.from_file(imhn_quickstart)
    cv2.imwrite(str(tmp_path / "grey.png"), np.full((90, 120, 3), 127, np.uint8))
    with pytest.raises(ParityError, match=r"no joint was scored 0\.2 or more"):
        export_checked(experiment, tmp_path / "x", ["onnx"], pictures=tmp_path / "grey.png")
    assert not (tmp_path / "x").exists()


def test_the_experiment_stays_as_it_is(experiment, tmp_path):
    export_checked(experiment, tmp_path / "x", ["onnx"], pictures=PICTURES, bbox_file=BOXES)
    assert experiment.postprocess.oks_nms == 0.9


def test_openvino_is_compared_on_paddle_files_too(experiment, tmp_path, capsys):
    export_checked(experiment, tmp_path / "x", ["paddle"], pictures=PICTURES, bbox_file=BOXES)
    assert "openvino " in capsys.readouterr().out


def tool(*arguments):
    command = [sys.executable, str(ROOT / "tools" / "export.py"), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True)


def test_the_command_line(quickstart, tmp_path):
    run = tool("-c", quickstart, "--output_dir", tmp_path / "x", "--format", "onnx", "--batch", 2)
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
        (["--check", "nowhere.jpg"], 1, "image or folder nowhere.jpg does not exist"),
        (["--peaks", "-o", "flip_test=true"], 1, "peaks: flip_test"),
    ],
)
def test_errors_are_one_line_without_a_trace(quickstart, tmp_path, arguments, code, message):
    run = tool("-c", quickstart, "--output_dir", tmp_path / "x", *arguments)
    assert run.returncode == code
    assert message in run.stderr
    assert "Traceback" not in run.stderr
    assert not (tmp_path / "x").exists()
