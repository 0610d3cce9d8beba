"""Options that the command lines of exported networks share, and the tools that take them."""

import argparse
import json
import shutil
import subprocess
import sys

import pytest
import tiny_two_input_model as two
from conftest import ROOT

from ppose.commands import arguments as options
from ppose.deploy.bundle import Bundle
from ppose.deploy.session_runner import load_runner


def parsed(*arguments):
    parser = argparse.ArgumentParser()
    options.add_detector(parser)
    options.add_machine(parser)
    args = parser.parse_args(arguments)
    return options.given(args), options.chosen(parser, args)


def run(script, *arguments):
    command = [sys.executable, str(ROOT / script), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, cwd=ROOT)


def test_what_is_not_given_has_its_default():
    given, chosen = parsed()
    assert given == []
    assert options.for_pipeline(chosen) == {
        **{"det_model_dir": None, "min_box_score": 0.5, "backend": "auto", "device": "cpu"},
        **{"precision": "fp32", "threads": None},
    }


def test_what_is_given_is_taken():
    given, chosen = parsed(
        *("--det_model_dir=people", "--det_threshold=0", "--backend=openvino", "--device=gpu"),
        *("--precision=fp16", "--threads=3"),
    )
    assert len(given) == 6
    assert options.for_pipeline(chosen) == {
        **{"det_model_dir": "people", "min_box_score": 0, "backend": "openvino", "device": "gpu"},
        **{"precision": "fp16", "threads": 3},
    }


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--threads=0"], "--threads starts at 1"),
        (["--det_threshold=0.3"], "--det_threshold goes with --det_model_dir"),
        (["--det_model_dir=a", "--det_threshold=nan"], "--det_threshold is from 0 to 1"),
        (["--det_model_dir=a", "--det_threshold=30"], "--det_threshold is from 0 to 1"),
        (["--det_model_dir="], "--det_model_dir is empty"),
        (["--backend=foo"], "invalid choice: 'foo'"),
    ],
)
def test_what_makes_no_sense(capsys, arguments, message):
    with pytest.raises(SystemExit) as ended:
        parsed(*arguments)
    assert ended.value.code == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize("script", ["deploy/infer.py", "deploy/serve.py", "tools/eval.py"])
def test_help_says_what_a_detector_does_not_follow(script):
    done = run(script, "--help")
    assert done.returncode == 0, done.stderr
    words = " ".join(done.stdout.split())
    assert "for a detector it is always auto" in words
    assert "a detector runs in fp32" in words


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--backend=paddle", "--threads=1"], "--backend, --threads: only with --model_dir"),
        (["--det_threshold=0.3"], "--det_threshold goes with --det_model_dir"),
        (["--det_model_dir=people", "--precision=int8"], "--precision: only with --model_dir"),
        (
            ["--det_model_dir=people", "-o", "val_dataset.bbox_file=boxes.json"],
            "give --det_model_dir or val_dataset.bbox_file, not both",
        ),
        (["--model_dir=a", "--backend=foo"], "invalid choice: 'foo'"),
        (["--model_dir=a", "--threads=0"], "--threads starts at 1"),
        (["--model_dir="], "--model_dir is empty"),
    ],
)
def test_eval_refuses(arguments, message):
    done = run("tools/eval.py", "-c", "configs/quickstart.yml", *arguments)
    assert done.returncode == 2
    assert message in done.stderr and "Traceback" not in done.stderr


def test_serve_refuses():
    done = run("deploy/serve.py", "--model_dir=nowhere", "--threads=0")
    assert done.returncode == 2
    assert "--threads starts at 1" in done.stderr and "Traceback" not in done.stderr


def test_eval_of_an_exported_network(top_down_bundle, small_run, tmp_path):
    done = run(
        *("tools/eval.py", "-c", "configs/quickstart.yml", "--model_dir", top_down_bundle),
        *("--backend=onnxruntime", "--threads=1", "--json", tmp_path / "scores.json"),
        *("-o", *small_run),
    )
    assert done.returncode == 0, done.stderr
    scores = json.loads((tmp_path / "scores.json").read_text())
    assert scores["backend"] == "onnxruntime" and scores["precision"] == "fp32"
    assert scores["det_model_dir"] is None and scores["det_threshold"] is None


@pytest.mark.parametrize("backend", ["paddle", "openvino", "auto"])
def test_a_bundle_runs_the_files_that_it_lists(top_down_bundle, tmp_path, monkeypatch, backend):
    """What else lies in its folder is of another model."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    folder = shutil.copytree(top_down_bundle, tmp_path / "bundle")
    two.write_xml(folder)
    (folder / "model.json").write_text("{}")
    runner = load_runner(Bundle(folder), backend=backend, threads=1)
    assert runner.session.path.name in ("model.pdmodel", "model.onnx")
