"""Deployment needs NumPy, OpenCV, PyYAML and one backend, and nothing that trains."""

import json
import subprocess
import sys

import numpy as np
import pytest
from conftest import ROOT

from ppose.deploy.session import BACKENDS, PACKAGES
from ppose.experiment import Experiment
from ppose.export.bundle import export_bundle

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
def bundle(tmp_path_factory):
    experiment = Experiment.from_file(ROOT / "configs" / "imhn_quickstart.yml")
    folder = tmp_path_factory.mktemp("bundle")
    from ppose.api import chosen_weights
    from ppose.checkpoint import load_weights

    load_weights(experiment.model, chosen_weights(experiment))
    export_bundle(experiment, folder)
    return folder


@pytest.fixture(scope="module")
def expected():
    import ppose

    estimator = ppose.load(ROOT / "configs" / "imhn_quickstart.yml")
    return estimator(ROOT / "dataset" / "test_image" / "people.jpg")


@pytest.mark.parametrize("backend", BACKENDS)
def test_inference_with_one_backend_alone(bundle, expected, backend, tmp_path):
    # Paddle's own package asks for more than deployment does.
    own = {"paddle", "PIL", "requests", "safetensors"} if backend == "paddle" else set()
    others = {*TRAINING, *BACKENDS} - own - {backend}
    image = ROOT / "dataset" / "test_image" / "people.jpg"
    run = run_without(
        sorted(others),
        ROOT / "deploy" / "infer.py",
        *("--model_dir", bundle, "--image_file", image, "--output_dir", tmp_path),
        *("--backend", backend),
    )
    assert run.returncode == 0, run.stderr
    people = json.loads((tmp_path / "poses.json").read_text())["images"][0]["people"]
    keypoints = np.array([person["keypoints"] for person in people])
    assert keypoints.shape == expected.keypoints.shape
    assert np.abs(keypoints - expected.keypoints).max() < 0.05
    assert (tmp_path / "people.jpg").is_file()


def test_a_backend_that_is_not_installed_is_named(bundle, tmp_path):
    run = run_without(
        [*TRAINING, *BACKENDS],
        ROOT / "deploy" / "infer.py",
        *("--model_dir", bundle, "--image_file", ROOT / "dataset" / "test_image" / "people.jpg"),
        *("--output_dir", tmp_path, "--backend", "onnxruntime"),
    )
    assert run.returncode == 1
    assert PACKAGES["onnxruntime"][0] in run.stderr
    assert "Traceback" not in run.stderr


def test_help_needs_nothing():
    run = run_without([*TRAINING, *BACKENDS], ROOT / "deploy" / "infer.py", "--help")
    assert run.returncode == 0, run.stderr
    assert "--model_dir" in run.stdout
