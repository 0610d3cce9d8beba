"""One command makes, exports and measures all networks of a plan, and continues after a stop."""

import json
import subprocess
import sys

import pytest
import yaml
from conftest import ROOT

from ppose.commands.study import Study, _read
from ppose.commands.study_report import table, write_report
from ppose.config import ConfigError, dump_config
from ppose.experiment import Experiment

NAMES = ["float teacher", "float student", "distilled", "PTQ", "PACT", "distilled + PACT"]


@pytest.fixture
def plan(quickstart, small_run, teacher_of, tmp_path):
    """A plan of runs of seconds."""
    teacher = teacher_of(
        quickstart,
        [*small_run, "model.backbone.width=8"],
        [{"student": "final_conv", "teacher": "final_conv"}],
    )
    student = tmp_path / "student.yml"
    config = Experiment.from_file(quickstart, [*small_run, "epochs=1", "eval_every=1"]).config
    student.write_text(dump_config(config), encoding="utf-8")
    quantized = tmp_path / "quantized.yml"
    quantize = config | {"quantize": {"calibration_batches": 1}}
    quantized.write_text(dump_config(quantize), encoding="utf-8")
    path = tmp_path / "plan.yml"
    keys = {"teacher": teacher, "student": student, "quantized": quantized}
    text = {k: str(v) for k, v in keys.items()}
    path.write_text(yaml.safe_dump(text | {"output_dir": f"{tmp_path}/study", "rounds": 2}))
    return path


def compressed(plan, *overrides):
    command = [sys.executable, "tools/compress.py", "-c", str(plan)]
    command += ["-o", *overrides] if overrides else []
    return subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=False)


def test_the_report_has_every_network_and_a_second_call_trains_nothing(plan, tmp_path):
    done = compressed(plan)
    assert done.returncode == 0, done.stderr
    folder = tmp_path / "study"
    report = json.loads((folder / "report.json").read_text())
    rows = {row["name"]: row for row in report["rows"]}
    assert list(rows) == NAMES
    for name, row in rows.items():
        is_int8 = "PTQ" in name or "PACT" in name
        assert (row["kernels"].get("int8", 0) > 0) == is_int8, name
        assert row["ap"] == pytest.approx(row["eager_ap"], abs=0.05)
        assert all(p95 >= p50 > 0 for p50, p95 in row["latency"].values())
    assert rows["PACT"]["size"] < rows["float student"]["size"]
    text = (folder / "report.md").read_text()
    assert all(f"| {name} |" in text for name in NAMES)
    assert (folder / "report.png").stat().st_size > 10_000

    trained = (folder / "pact" / "best.safetensors").stat().st_mtime_ns
    done = compressed(plan, "rounds=1")
    assert done.returncode == 0, done.stderr
    assert (folder / "pact" / "best.safetensors").stat().st_mtime_ns == trained


def test_overrides_reach_the_configs_that_they_name(plan):
    read, rest = _read(plan, ["student.epochs=3", "teacher.batch_size=4", "rounds=7"])
    study = Study(read, rest)
    assert study.plan.rounds == 7
    assert study.of("student", "x").epochs == 3
    assert study.of("quantized", "x").epochs == 1
    assert study.teacher().batch_size == 4


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("epochs=1", "Plan has no argument 'epochs'"),
        ("pupil.epochs=1", r"expected teacher.KEY=VALUE, student.KEY=VALUE or"),
        ("rounds=0", "threads and rounds start at 1"),
        ("threads=many", "threads: expected int"),
    ],
)
def test_overrides_that_fit_nothing(plan, override, message):
    with pytest.raises(ConfigError, match=message):
        Study(*_read(plan, [override]))


def row_of(name, size, p50):
    return {
        "name": name,
        "ap": 0.5,
        "eager_ap": 0.5,
        "size": size,
        "latency": {1: (p50, 2 * p50)},
        "kernels": {"int8": 2, "float32": 1},
        "weights": "w",
    }


FACTS = {"cpu": "a CPU", "threads": 1, "versions": {"paddle": "3"}, "command": "c", "cpu_flags": []}


def test_the_table_compares_to_the_float_student():
    rows = [row_of("float student", 1_000_000, 10.0), row_of("PACT", 250_000, 4.0)]
    assert table(rows)[-1] == "| PACT | 50.0 | 50.0 | 0.25 | 0.25 | 4.0 / 8.0 | 0.40 |"


def test_a_cpu_without_int8_dot_products_is_named(tmp_path):
    rows = [row_of("float student", 1_000_000, 10.0)]
    for flags, expected in (["avx2"], True), (["avx2", "avx512_vnni"], False):
        path = write_report(tmp_path, "x", rows, FACTS | {"cpu_flags": flags})
        assert ("no int8 dot products" in path.read_text()) == expected
