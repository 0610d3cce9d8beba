"""Evaluation excludes images that cannot be read, and checks output files first."""

import json
import shutil

import numpy as np
import pytest
import yaml
from tiny_detector import write_detector

from ppose.commands import main
from ppose.commands.eval import evaluate_weights
from ppose.evaluation import evaluate
from ppose.experiment import Experiment
from ppose.training.state import float_arrays
from ppose.weights.weight_file import save_arrays


@pytest.fixture
def run(quickstart, small_run, people, tmp_path):
    """An experiment with its own copy of the val images."""
    folder = tmp_path / "val"
    shutil.copytree(people / "val", folder)
    return Experiment.from_file(quickstart, [*small_run, f"val_dataset.image_dir={folder}"])


def score(run):
    return evaluate(run.estimator(), run.val_dataset, run.metric, quiet=True)


def test_unreadable_and_missing_images_are_excluded(run, capsys):
    complete = score(run)
    path = run.val_dataset.images[0].path
    path.write_bytes(path.read_bytes()[:500])
    truncated = score(run)
    assert f"left out: {path}" in capsys.readouterr().out
    assert (truncated.images, truncated.left_out) == (complete.images - 1, 1)
    assert "1 images could not be read" in truncated.table()
    path.unlink()
    missing = Experiment(run.config)
    missing.model.set_state_dict(run.model.state_dict())
    found, expected = score(missing), truncated
    assert (found.images, found.people) == (expected.images, expected.people)
    scores = [list(one.numbers().values()) for one in (found, expected)]
    assert np.allclose(*scores, equal_nan=True)


def test_no_readable_image_is_an_error(run):
    for record in run.val_dataset.images:
        record.path.write_bytes(b"not an image")
    with pytest.raises(ValueError, match="none of the images"):
        score(run)


def test_the_json_has_the_settings_that_affect_the_scores(run, tmp_path, capsys):
    weights = tmp_path / "fresh.safetensors"
    save_arrays(weights, float_arrays(run.model.state_dict()))
    run = Experiment(run.config | {"weights": str(weights)})
    evaluate_weights(run, scores_file=str(tmp_path / "scores.json"))
    scores = json.loads((tmp_path / "scores.json").read_text())
    assert scores["flip_test"] is True
    assert scores["min_box_score"] == 0
    assert scores["weights"] == str(weights)


def test_a_detector_finds_the_boxes(run, quickstart, tmp_path, capsys):
    folder = tmp_path / "person"
    folder.mkdir()
    weights = tmp_path / "fresh.safetensors"
    save_arrays(weights, float_arrays(run.model.state_dict()))
    config = tmp_path / "run.yml"
    config.write_text(yaml.safe_dump(run.config | {"weights": str(weights)}))
    options = ["-c", str(config), "--json", str(tmp_path / "scores.json")]
    options += ["--det_model_dir", str(write_detector(folder)), "--det_threshold", "0.5"]
    with pytest.raises(SystemExit) as end:
        main(["eval", *options])
    assert not end.value.code, capsys.readouterr()
    scores = json.loads((tmp_path / "scores.json").read_text())
    assert scores["box_source"].startswith("person") and scores["det_threshold"] == 0.5
    assert scores["detections"] == scores["images"]  # the detector finds one person in each


def test_an_input_that_is_too_small_is_named(quickstart, small_run):
    tiny = Experiment.from_file(quickstart, [*small_run, "input_size=[32, 32]"])
    scores = score(tiny)
    assert scores.are_zero
    assert "the input is 32x32, so the heat maps have 8x8 cells" in scores.table()


def test_an_unwritable_output_is_an_error_before_evaluation(run, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match="file"):
        evaluate_weights(run, scores_file=str(tmp_path / "file" / "scores.json"))
