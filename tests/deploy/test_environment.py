"""Deployment needs NumPy, OpenCV, PyYAML and one backend, and nothing that trains."""

import json
import subprocess
import sys

import numpy as np
import pytest
from conftest import ROOT

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


def test_help_needs_nothing():
    run = run_without([*TRAINING, *BACKENDS], ROOT / "deploy" / "infer.py", "--help")
    assert run.returncode == 0, run.stderr
    assert "--model_dir" in run.stdout
