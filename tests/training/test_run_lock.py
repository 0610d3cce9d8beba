"""A folder has one run at a time."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
from conftest import ROOT

from ppose.experiment import Experiment
from ppose.training.setup import train
from ppose.utils.file_lock import claimed


def start(tool, *arguments):
    command = [sys.executable, f"tools/{tool}.py", *map(str, arguments)]
    return subprocess.Popen(
        command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )


def files_of(folder):
    return {p.relative_to(folder): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


@pytest.mark.parametrize("resume", [False, True])
def test_a_second_training_is_refused_and_the_first_is_as_if_alone(
    quickstart, small_run, tmp_path, resume
):
    folder = tmp_path / "run"
    first = start("train", "-c", quickstart, "-o", *small_run, "epochs=5000", "save_every=0.5")
    try:
        while not list((folder / "checkpoints").glob("step-*.safetensors")):
            assert first.poll() is None
        second = start(
            "train", *(["--resume"] if resume else []), "-c", quickstart, "-o", *small_run
        )
        said = second.communicate(timeout=120)[0]
    finally:
        first.kill()
    first.communicate()
    assert second.returncode == 1
    assert f"error: {folder} is in use by process {first.pid} on " in said
    assert "Traceback" not in said
    assert len((folder / "run.json").read_text().split('"command"')) == 2, "one start"
    # The killed process holds nothing.
    resumed = Experiment.from_file(quickstart, [*small_run, "epochs=1"])
    assert train(resumed, resume=True).is_over


@pytest.mark.parametrize(("tool", "lock"), [("quantize", "run/ptq"), ("compress", "study/study")])
def test_quantizing_and_studies_are_refused_too(quickstart, small_run, tmp_path, tool, lock):
    plan = tmp_path / "plan.yml"
    parts = "".join(f"{key}: {quickstart}\n" for key in ("teacher", "student", "quantized"))
    plan.write_text(f"name: plan\n{parts}output_dir: {tmp_path}/study\n")
    arguments = ["-c", plan] if tool == "compress" else ["-c", quickstart, "-o", *small_run]
    with claimed(tmp_path / lock):
        before = files_of(tmp_path)
        process = start(tool, *arguments)
        said = process.communicate(timeout=120)[0]
        assert files_of(tmp_path) == before
    assert process.returncode == 1
    assert f"is in use by process {os.getpid()} on " in said
    assert "Traceback" not in said


def test_a_refused_run_leaves_no_trace(quickstart, small_run, tmp_path):
    process = start("train", "-c", quickstart, "--resume", "-o", *small_run)
    said = process.communicate(timeout=120)[0]
    assert process.returncode == 1
    assert "nothing to resume" in said
    assert not (tmp_path / "run").exists()
