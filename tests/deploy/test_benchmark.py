"""benchmarks/infer.py: measured combinations, and reasons for those that cannot run."""

import json
import subprocess
import sys

import pytest
from conftest import ROOT


def measured(folder, *arguments):
    """The benchmark's results for a few small networks."""
    table = folder / "table.json"
    options = [f"--folder={folder}", f"--json={table}", "--rounds=1", "--threads=1", *arguments]
    command = [sys.executable, str(ROOT / "benchmarks" / "infer.py"), *options]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return json.loads(table.read_text())


def exports(folder):
    return {path: path.stat().st_mtime_ns for path in folder.rglob("pose.yml")}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("benchmark")


@pytest.fixture(scope="module")
def found(folder):
    names = ("--models=quickstart", "--end_to_end", "quickstart", "imhn_quickstart")
    backends = ("--backends", "onnxruntime", "openvino")
    more = ("--batches", "1", "3", "--precisions=fp32", "--people", "2", "7")
    return measured(folder, *names, *backends, *more)


def test_rows_of_networks(found):
    rows = found["rows"]
    assert [(row["batch"], row["backend"]) for row in rows] == [
        *[(1, "onnxruntime"), (1, "openvino"), (3, "onnxruntime"), (3, "openvino")]
    ]
    for row in rows:
        assert row["precision"] == "fp32"
        assert 0 < row["p50 ms"] <= row["p95 ms"]
        assert row["runs"] > 0
        assert 0 < row["MiB"] < row["process MiB"]
        assert row["load s"] > 0
    for batch in (1, 3):
        ratios = [row["x best"] for row in rows if row["batch"] == batch]
        assert min(ratios) == 1 < max(ratios)


def test_rows_of_end_to_end_runs(found):
    rows = {(r["model"], r["backend"], r["people"]): r for r in found["end_to_end"]}
    assert len(rows) == len(found["end_to_end"]) == 8
    for (model, _, people), row in rows.items():
        assert row["crop ms"] > 0 < row["network ms"]
        assert row["decode ms"] > 0 == row["detector ms"]
        assert row["all p50"] >= row["network ms"]
        boxed = model == "quickstart"
        assert (row["found"] == people) if boxed else row["found"] > 0
        assert row["boxes"] == ("true boxes" if boxed else "no boxes: bottom-up")


def test_exports_are_reused_and_unsupported_settings_reported(found, folder):
    before = exports(folder)
    networks = ("--models=quickstart", "--end_to_end", "--batches=1")
    again = measured(folder, *networks, "--backends=openvino", "--precisions", "fp32", "fp16")
    assert exports(folder) == before
    assert found["not_run"] == []
    assert [row["precision"] for row in again["rows"]] == ["fp32"]
    [refused] = again["not_run"]
    assert refused["precision"] == "fp16"
    assert refused["not run"] == "batch 1"
    assert "not fp16" in refused["why"]


@pytest.mark.parametrize(
    ("argument", "message"),
    [
        ("--models=nothing", "nothing.yml"),
        ("--weights=quickstart", "expected CONFIG=FILE"),
        ("--weights=tiny=FILE", "'tiny' is none of hrnet_w32_256x192"),
        ("--rounds=0", "start at 1"),
        ("--people=25", "at most 24"),
    ],
)
def test_wrong_arguments(argument, message):
    command = [sys.executable, str(ROOT / "benchmarks" / "infer.py"), argument]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 2
    assert message in done.stderr
