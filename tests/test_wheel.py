"""The wheel in a fresh environment: what `pip install` brings runs without a checkout."""

import json
import os
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

import cv2
import numpy as np
import pytest
from conftest import ROOT

import ppose

PEOPLE = ROOT / "dataset" / "test_image" / "people.jpg"
BOXES = [[114, 71, 116, 368], [321, 187, 123, 250]]


def run(*command, cwd, expect=0):
    environment = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "VIRTUAL_ENV")}
    done = subprocess.run(
        [*map(str, command)], capture_output=True, text=True, cwd=cwd, env=environment
    )
    assert done.returncode == expect, done.stdout + done.stderr
    return done.stdout + done.stderr


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    folder = tmp_path_factory.mktemp("wheel")
    said = run(sys.executable, "-m", "build", "--wheel", "--outdir", folder, ROOT, cwd=folder)
    assert "warning" not in said.lower().replace("warning: location", "")
    (path,) = folder.glob("ppose-*.whl")
    return path


@pytest.fixture(scope="module")
def fresh(wheel, tmp_path_factory):
    """Folder of programs of a new environment that has the wheel and what it asks for."""
    folder = tmp_path_factory.mktemp("fresh")
    run(sys.executable, "-m", "venv", folder, cwd=folder)
    programs = folder / Path(sysconfig.get_path("scripts")).name
    said = run(programs / "python", "-m", "pip", "install", wheel, cwd=folder)
    assert "deprecation" not in said.lower()
    return programs


@pytest.fixture
def empty(tmp_path):
    """A folder with a photograph and nothing else."""
    shutil.copy(PEOPLE, tmp_path / "photo.jpg")
    return tmp_path


def test_inference_by_the_name_of_a_config(fresh, empty):
    said = run(fresh / "ppose", "infer", "-c", "quickstart", "--infer_img", "photo.jpg", cwd=empty)
    assert "1 person in 1 image" in said
    assert "the exported quickstart runs" in said
    written = empty / "output" / "quickstart" / "infer"
    people = json.loads((written / "poses.json").read_text())["images"][0]["people"]
    assert len(people) == 1
    assert cv2.imread(str(written / "photo.jpg")).shape == cv2.imread(str(PEOPLE)).shape


def test_python_finds_what_a_checkout_finds(fresh, empty):
    code = (
        "import json, ppose\n"
        f"poses = ppose.load('quickstart')('photo.jpg', boxes={BOXES})\n"
        "print(json.dumps(poses.keypoints.tolist()))"
    )
    found = np.array(json.loads(run(fresh / "python", "-c", code, cwd=empty).splitlines()[-1]))
    expected = ppose.load("quickstart")(PEOPLE, boxes=BOXES).keypoints
    assert np.abs(found - expected).max() < 0.05


def test_what_trains_is_named_when_it_is_missing(fresh, empty):
    for command in (["config", "-c", "quickstart"], ["train", "-c", "quickstart"]):
        said = run(fresh / "ppose", *command, cwd=empty, expect=1)
        assert "pip install 'ppose[train]'" in said
        assert "Traceback" not in said
    photo = ["--infer_img", "photo.jpg"]
    said = run(fresh / "ppose", "infer", "-c", "tinypose_256x192", *photo, cwd=empty, expect=1)
    assert "needs Paddle: pip install 'ppose[train]'" in said


def test_help_of_every_command(fresh, empty):
    listed = run(fresh / "ppose", "--help", cwd=empty)
    for name in ("infer", "video", "detect", "train", "eval", "export", "serve", "completion"):
        assert f"\n    {name}" in listed
        assert "examples:" in run(fresh / "ppose", name, "--help", cwd=empty)
    assert run(fresh / "python", "-m", "ppose", "--help", cwd=empty) != ""
    assert "_ppose" in run(fresh / "ppose", "completion", "bash", cwd=empty)


def test_types_are_for_everybody(wheel, fresh):
    place = run(
        *(fresh / "python", "-c", "import ppose; print(ppose.__path__[0])"), cwd=wheel.parent
    ).strip()
    assert (Path(place) / "py.typed").is_file()
    for name in ("quickstart.yml", "weights/quickstart.safetensors", "weights/README.md"):
        assert (Path(place) / "configs" / name).is_file()
