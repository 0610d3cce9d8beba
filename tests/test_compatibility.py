"""What ppose 0.1.0 wrote is read: a config with its names, a checkpoint, bundles.

tests/fixtures/written_by_0_1_0 was written by that version, on the data set of `people`.
"""

import json
import shutil

import numpy as np
import pytest
import yaml
from conftest import ROOT, TRAIN, data_of

from ppose.commands import script
from ppose.deploy.session_runner import load_estimator
from ppose.experiment import Experiment
from ppose.training.checkpoints import read_state
from ppose.training.setup import prepare

OLD = ROOT / "tests" / "fixtures" / "written_by_0_1_0"
PEOPLE = ROOT / "dataset" / "test_image" / "people.jpg"
BOXES = {"quickstart": [[114, 71, 116, 368], [321, 187, 123, 250]], "imhn_quickstart": None}


@pytest.fixture
def run(people, tmp_path):
    """A copy of the old run and the overrides that lead to its data."""
    folder = shutil.copytree(OLD / "run", tmp_path / "run")
    return folder, [*data_of(people), f"output_dir={folder}"]


def test_former_names_in_a_config(run, capsys):
    folder, overrides = run
    experiment = Experiment.from_file(folder / "config.yml", overrides)
    assert type(experiment.train_dataset).__name__ == "CocoMultiPerson"
    assert len(experiment.train_dataset.images) <= TRAIN
    warned = capsys.readouterr().err.splitlines()
    assert len(warned) == len(set(warned)) == 4, warned
    assert all(line.startswith("config.yml: deprecated: ") for line in warned)
    # What is written has the names of today, and means the same.
    saved = Experiment.from_file(experiment.save())
    assert capsys.readouterr().err == ""
    assert saved.config == experiment.config


def test_a_checkpoint_is_resumed(run):
    folder, overrides = run
    state = read_state(folder / "checkpoints" / "step-00000003.safetensors")
    experiment = Experiment.from_file(folder / "config.yml", [*overrides, "epochs=2"])
    trainer = prepare(experiment, resume=True, hooks=[])
    assert trainer.state.step == 3
    restored = trainer.state.arrays()
    assert restored.keys() == state.arrays.keys()
    assert all(np.array_equal(restored[name], state.arrays[name]) for name in restored)
    trainer.train()
    assert trainer.state.step == 6
    assert all(np.isfinite(array).all() for array in trainer.state.arrays().values())


@pytest.mark.parametrize("name", BOXES)
def test_a_bundle_finds_what_it_found(name, tmp_path, capsys):
    """The network is that of the bundle that ships, whose bytes are the same."""
    folder = shutil.copytree(ROOT / "configs" / "weights" / "bundles" / name, tmp_path / name)
    shutil.copy(OLD / f"{name}_pose.yml", folder / "pose.yml")
    poses = load_estimator(folder, backend="onnxruntime")(PEOPLE, boxes=BOXES[name])
    expected = np.array(json.loads((OLD / "poses.json").read_text())[name])
    assert poses.keypoints.shape == expected.shape
    assert np.abs(poses.keypoints[..., :2] - expected[..., :2]).max() < 0.05
    assert "deprecated" not in capsys.readouterr().err


def test_old_weights_in_the_new_config(run, tmp_path, monkeypatch, capsys):
    """`tools/config.py` under its old name prints what it reads."""
    folder, overrides = run
    arguments = ["config.py", "-c", str(folder / "config.yml"), "-o", *overrides]
    monkeypatch.setattr("sys.argv", arguments)
    with pytest.raises(SystemExit) as ended:
        script("config")
    assert ended.value.code == 0
    assert yaml.safe_load(capsys.readouterr().out)["train_dataset"]["type"] == "CocoMultiPerson"
