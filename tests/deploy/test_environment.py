"""Deployment needs NumPy, OpenCV, PyYAML and one backend, and nothing that trains."""

import json
import subprocess
import sys

import cv2
import numpy as np
import onnx
import pytest
from conftest import ROOT
from onnx import helper

from ppose.deploy.session import BACKENDS, PACKAGES

PEOPLE = ROOT / "dataset" / "test_image" / "people.jpg"

# What pip installs for training, by the names under which it is imported.
TRAINING = (
    *("paddle", "paddleslim", "numba", "pycocotools", "PIL", "safetensors", "msgspec", "tqdm"),
    *("psutil", "visualdl", "matplotlib", "sklearn", "scipy", "pandas", "requests", "onnx"),
)
# Runs a script where importing what is not there fails, as it does in an environment without it.
WITHOUT = """
import runpy, sys
for name in {names!r}:
    sys.modules[name] = None
sys.argv = {argv!r}
runpy.run_path({script!r}, run_name="__main__")
"""


def run_without(names, script, *arguments):
    argv = [str(script), *map(str, arguments)]
    code = WITHOUT.format(names=names, argv=argv, script=str(script))
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)


@pytest.fixture(scope="module")
def expected():
    import ppose

    estimator = ppose.load(ROOT / "configs" / "imhn_quickstart.yml")
    return estimator(PEOPLE)


@pytest.mark.parametrize("backend", BACKENDS)
def test_inference_with_one_backend_alone(bottom_up_bundle, expected, backend, tmp_path):
    # Paddle's own package asks for more than deployment does.
    own = {"paddle", "PIL", "requests", "safetensors"} if backend == "paddle" else set()
    others = {*TRAINING, *BACKENDS} - own - {backend}
    run = run_without(
        sorted(others),
        ROOT / "deploy" / "infer.py",
        *("--model_dir", bottom_up_bundle, "--image_file", PEOPLE, "--output_dir", tmp_path),
        *("--backend", backend),
    )
    assert run.returncode == 0, run.stderr
    people = json.loads((tmp_path / "poses.json").read_text())["images"][0]["people"]
    keypoints = np.array([person["keypoints"] for person in people])
    assert keypoints.shape == expected.keypoints.shape
    assert np.abs(keypoints - expected.keypoints).max() < 0.05
    assert (tmp_path / "people.jpg").is_file()


def write_detector(folder):
    """A network that finds one person, who fills any picture."""
    constants = {"zero": np.zeros(1), "box": [[[0, 0, 64, 64]]], "likely": [[[0.9]]]}
    nodes = [
        helper.make_node("ReduceMean", ["image"], ["mean"], axes=[1, 2, 3], keepdims=0),
        helper.make_node("Mul", ["mean", "zero"], ["nothing"]),
        helper.make_node("Add", ["box", "nothing"], ["places"]),
        helper.make_node("Add", ["likely", "nothing"], ["scores"]),
    ]
    sides = {"image": (1, 3, 64, 64), "places": (1, 1, 4), "scores": (1, 1, 1)}
    image, *outputs = (
        helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, shape)
        for name, shape in sides.items()
    )
    tensors = [
        onnx.numpy_helper.from_array(np.array(value, np.float32), name)
        for name, value in constants.items()
    ]
    graph = helper.make_graph(nodes, "person", [image], outputs, tensors)
    opset = helper.make_opsetid("", 17)
    model = helper.make_model(graph, opset_imports=[opset], ir_version=8)
    onnx.save(model, folder / "person.onnx")
    (folder / "detector.yml").write_text("mean: [0, 0, 0]\nstd: [1, 1, 1]\n")
    return folder


@pytest.mark.parametrize("backend", ["onnxruntime", "openvino"])
def test_a_video_and_a_detector_without_what_trains(top_down_bundle, backend, tmp_path):
    clip = tmp_path / "clip.mp4"
    frame = cv2.imread(str(PEOPLE))
    writer = cv2.VideoWriter(str(clip), cv2.VideoWriter_fourcc(*"mp4v"), 10, frame.shape[1::-1])
    for _ in range(3):
        writer.write(frame)
    writer.release()
    out, folder = tmp_path / "out", tmp_path / "detector"
    folder.mkdir()
    run = run_without(
        sorted({*TRAINING, *BACKENDS} - {backend}),
        ROOT / "deploy" / "infer.py",
        *("--model_dir", top_down_bundle, "--det_model_dir", write_detector(folder)),
        *("--video_file", clip, "--output_dir", out, "--backend", backend),
    )
    assert run.returncode == 0, run.stderr
    lines = [json.loads(line) for line in (out / "clip.jsonl").read_text().splitlines()]
    assert [len(line["people"]) for line in lines] == [1, 1, 1]
    assert np.array(lines[0]["people"][0]["keypoints"]).shape == (17, 3)
    assert lines[0]["people"][0]["track_id"] == lines[2]["people"][0]["track_id"]
    assert (out / "clip.mp4").is_file()


def test_a_backend_that_is_not_installed_is_named(bottom_up_bundle, tmp_path):
    run = run_without(
        [*TRAINING, *BACKENDS],
        ROOT / "deploy" / "infer.py",
        *("--model_dir", bottom_up_bundle, "--image_file", PEOPLE),
        *("--output_dir", tmp_path, "--backend", "onnxruntime"),
    )
    assert run.returncode == 1
    assert PACKAGES["onnxruntime"][0] in run.stderr
    assert "Traceback" not in run.stderr


def test_boxes_of_a_file(top_down_bundle, tmp_path):
    run = run_without(
        sorted({*TRAINING, *BACKENDS} - {"onnxruntime"}),
        ROOT / "deploy" / "infer.py",
        *("--model_dir", top_down_bundle, "--image_file", PEOPLE, "--output_dir", tmp_path),
        *("--backend", "onnxruntime", "--bbox_file", PEOPLE.with_name("boxes.json")),
    )
    assert run.returncode == 0, run.stderr
    [image] = json.loads((tmp_path / "poses.json").read_text())["images"]
    assert image["box_source"] == "boxes.json"


def test_help_needs_nothing():
    run = run_without([*TRAINING, *BACKENDS], ROOT / "deploy" / "infer.py", "--help")
    assert run.returncode == 0, run.stderr
    assert "--model_dir" in run.stdout
