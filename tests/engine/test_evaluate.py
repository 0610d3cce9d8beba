"""Pictures that cannot be read count neither as misses nor as hits; targets are checked first."""

import json
import shutil

import numpy as np
import pytest

from ppose.engine.evaluate import evaluate, evaluate_weights
from ppose.engine.state import float_arrays
from ppose.experiment import Experiment
from ppose.weightfile import save_arrays


@pytest.fixture
def run(quickstart, small_run, people, tmp_path):
    """An experiment whose val pictures may be damaged."""
    folder = tmp_path / "val"
    shutil.copytree(people / "val", folder)
    return Experiment.from_file(quickstart, [*small_run, f"val_dataset.image_dir={folder}"])


def score(run):
    return evaluate(run.estimator(), run.val_dataset, run.metric, quiet=True)


def test_unreadable_and_missing_pictures_count_alike(run, capsys):
    whole = score(run)
    path = run.val_dataset.images[0].path
    path.write_bytes(path.read_bytes()[:500])
    cut = score(run)
    assert f"left out: {path}" in capsys.readouterr().out
    assert (cut.images, cut.left_out) == (whole.images - 1, 1)
    assert "1 images could not be read" in cut.table()
    path.unlink()
    missing = Experiment(run.config)
    missing.model.set_state_dict(run.model.state_dict())
    gone = score(missing)
    assert (gone.images, gone.people) == (cut.images, cut.people)
    assert np.allclose(list(gone.numbers().values()), list(cut.numbers().values()), equal_nan=True)


def test_nothing_readable_is_an_error(run):
    for record in run.val_dataset.images:
        record.path.write_bytes(b"no picture")
    with pytest.raises(ValueError, match="not one picture"):
        score(run)


def test_the_json_says_what_decides_the_score(run, tmp_path, capsys):
    weights = tmp_path / "fresh.safetensors"
    save_arrays(weights, float_arrays(run.model.state_dict()))
    run = Experiment(run.config | {"weights": str(weights)})
    evaluate_weights(run, scores_file=str(tmp_path / "scores.json"))
    scores = json.loads((tmp_path / "scores.json").read_text())
    assert scores["flip_test"] is True
    assert scores["min_box_score"] == 0
    assert scores["weights"] == str(weights)


def test_a_target_that_cannot_be_written_is_found_before_the_work(run, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match="file"):
        evaluate_weights(run, scores_file=str(tmp_path / "file" / "scores.json"))
