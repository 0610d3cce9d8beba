"""Deployment requires only NumPy, OpenCV, PyYAML and one backend."""

import json
import subprocess
import sys

import cv2
import numpy as np
import pytest
from conftest import ROOT
from tiny_detector import write_detector

from ppose.deploy.backends.settings import BACKENDS, PACKAGES

PEOPLE = ROOT / "dataset" / "test_image" / "people.jpg"

# Import names of the packages that pip installs for training.
TRAINING = (
    *("paddle", "paddleslim", "numba", "pycocotools", "PIL", "safetensors", "msgspec", "tqdm"),
    *("av", "psutil", "visualdl", "matplotlib", "sklearn", "scipy", "pandas", "requests", "onnx"),
)
# Runs a script with some imports disabled, as in an environment without these packages.
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
def test_inference_with_a_single_backend(bottom_up_bundle, expected, backend, tmp_path):
    # Dependencies of the Paddle package itself.
    required = {"paddle", "PIL", "requests", "safetensors"} if backend == "paddle" else set()
    others = {*TRAINING, *BACKENDS} - required - {backend}
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


@pytest.mark.parametrize("backend", ["onnxruntime", "openvino"])
def test_video_and_detector_without_training_packages(top_down_bundle, backend, tmp_path):
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


def test_missing_backend(bottom_up_bundle, tmp_path):
    run = run_without(
        [*TRAINING, *BACKENDS],
        ROOT / "deploy" / "infer.py",
        *("--model_dir", bottom_up_bundle, "--image_file", PEOPLE),
        *("--output_dir", tmp_path, "--backend", "onnxruntime"),
    )
    assert run.returncode == 1
    assert PACKAGES["onnxruntime"][0] in run.stderr
    assert "Traceback" not in run.stderr


def test_box_file(top_down_bundle, tmp_path):
    run = run_without(
        sorted({*TRAINING, *BACKENDS} - {"onnxruntime"}),
        ROOT / "deploy" / "infer.py",
        *("--model_dir", top_down_bundle, "--image_file", PEOPLE, "--output_dir", tmp_path),
        *("--backend", "onnxruntime", "--bbox_file", PEOPLE.with_name("boxes.json")),
    )
    assert run.returncode == 0, run.stderr
    [image] = json.loads((tmp_path / "poses.json").read_text())["images"]
    assert image["box_source"] == "boxes.json"


def test_help_needs_no_packages():
    run = run_without([*TRAINING, *BACKENDS], ROOT / "deploy" / "infer.py", "--help")
    assert run.returncode == 0, run.stderr
    assert "--model_dir" in run.stdout
