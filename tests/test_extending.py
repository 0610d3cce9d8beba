"""The examples of "To extend it" in docs/architecture.md run as they are."""

import json
import re
import shutil
import subprocess
import sys
from dataclasses import asdict

import numpy as np
import pytest
from conftest import ROOT

from ppose.config import registry
from ppose.deploy.session_runner import load_estimator
from ppose.evaluation import evaluate
from ppose.experiment import Experiment
from ppose.export.write_bundle import export_bundle
from ppose.training.setup import train

PAGE = ROOT / "docs" / "architecture.md"
IMAGE = ROOT / "dataset" / "test_image" / "people.jpg"
BOXES = [[114, 71, 116, 368], [321, 187, 123, 250]]


def example(title, language="python"):
    """The only code block of a language in a section."""
    _, found, section = PAGE.read_text().partition(f"### {title}\n")
    assert found, f"no section '{title}'"
    section = section.partition("\n### ")[0]
    [code] = re.findall(rf"^```{language}\n(.*?)^```", section, re.MULTILINE | re.DOTALL)
    return code


def run(code):
    names = {"__name__": "example"}
    exec(compile(code, str(PAGE), "exec"), names)
    return names


@pytest.fixture(autouse=True)
def own_registry(monkeypatch):
    """What the examples register is forgotten after each test."""
    monkeypatch.setattr(registry, "_CLASSES", dict(registry._CLASSES))


@pytest.fixture
def drawn_people(people, tmp_path, monkeypatch):
    """The data set of the quick start's config, small, in the working directory."""
    (tmp_path / "dataset").mkdir()
    (tmp_path / "dataset" / "synthetic_easy").symlink_to(people)
    monkeypatch.chdir(tmp_path)


def test_all_examples_are_tested():
    titles = re.findall(r"^### (.+)$", PAGE.read_text(), re.MULTILINE)
    assert titles == ["A network", "A dataset", "A metric", "A backend"]


def test_network_is_trained_and_exported(quickstart, small_run, tmp_path):
    tiny = run(example("A network"))["tiny"]
    experiment = Experiment.from_file(quickstart, [*small_run, *tiny, "epochs=1"])
    assert train(experiment).is_over
    assert experiment.best_weights.is_file()
    export_bundle(experiment, tmp_path / "bundle", ["onnx"])
    exported = load_estimator(tmp_path / "bundle", backend="onnxruntime")
    np.testing.assert_allclose(
        exported(IMAGE, BOXES).keypoints, experiment.estimator()(IMAGE, BOXES).keypoints, atol=0.05
    )


def test_dataset_chooses_people(drawn_people):
    experiment = run(example("A dataset"))["experiment"]
    chosen, everybody = experiment.train_dataset, Experiment.from_file("quickstart").train_dataset
    assert 0 < len(chosen) < len(everybody)
    assert (chosen.boxes_xywh[:, 3] >= 48).all()


def test_metric_scores_poses(drawn_people, capsys):
    names = run(example("A metric"))
    scores, experiment = names["scores"], names["experiment"]
    assert 0 <= scores.count_error < 3
    assert scores.table() in capsys.readouterr().out
    plain = Experiment.from_file("quickstart")
    coco = evaluate(experiment.estimator(), plain.val_dataset, plain.metric, quiet=True)
    own, plain = asdict(scores), asdict(coco)
    assert own.pop("notes") == plain.pop("notes")
    assert own == pytest.approx(plain | {"count_error": scores.count_error}, nan_ok=True)


def test_backend_runs_a_bundle(quickstart, tmp_path):
    """In a copy of the package, changed as the page says."""
    shutil.copytree(ROOT / "ppose", tmp_path / "ppose", ignore=shutil.ignore_patterns("*.pyc"))
    backends = tmp_path / "ppose" / "deploy" / "backends"
    (backends / "onnx.py").write_text(example("A backend"))
    apply(example("A backend", "diff"), tmp_path)

    experiment = Experiment.from_file(quickstart)
    experiment.load_weights()
    export_bundle(experiment, tmp_path / "bundle", ["onnx"])
    boxes = ["--box", *map(str, BOXES[0]), "--box", *map(str, BOXES[1])]
    options = ["--model_dir=bundle", "--backend=onnx", f"--infer_img={IMAGE}", *boxes]
    command = [sys.executable, "-m", "ppose", "infer", *options, "--output_dir=drawn"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr

    [image] = json.loads((tmp_path / "drawn" / "poses.json").read_text())["images"]
    found = np.array([person["keypoints"] for person in image["people"]])
    expected = experiment.estimator()(IMAGE, BOXES).keypoints
    np.testing.assert_allclose(found, expected, atol=0.05)


def apply(diff, folder):
    """Applies a diff whose hunks each name their file; each place exists exactly once."""
    for hunk in diff.split("+++ ")[1:]:
        name, *lines = hunk.splitlines()
        old, new = ("\n".join(x[1:] for x in lines if x[0] in kinds) for kinds in (" -", " +"))
        content = (folder / name).read_text()
        assert content.count(old + "\n") == 1, f"{name} has not one '{old}'"
        (folder / name).write_text(content.replace(old + "\n", new + "\n"))
