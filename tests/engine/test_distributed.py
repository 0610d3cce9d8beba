"""Two processes on CPUs train together and score as one."""

import json
import subprocess
import sys

import pytest
from conftest import ROOT


def run(*command):
    done = subprocess.run(
        [sys.executable, *map(str, command)], capture_output=True, text=True, cwd=ROOT, timeout=300
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.parametrize(
    ("config", "overrides"),
    [("quickstart", "small_run"), ("imhn_quickstart", "small_bottomup")],
)
def test_launching_two_processes_trains_one_network(config, overrides, request, tmp_path):
    config, overrides = request.getfixturevalue(config), request.getfixturevalue(overrides)
    logs = tmp_path / "logs"
    launch = ("-m", "paddle.distributed.launch", "--nproc_per_node", 2, "--backend", "gloo")
    run(*launch, "--log_dir", logs, "tools/train.py", "-c", config, "-o", *overrides)
    first, second = ((logs / f"workerlog.{rank}").read_text() for rank in (0, 1))
    assert "epoch 2/2" in first
    assert "epoch 2/2" not in second, "only the first process writes"

    scores = tmp_path / "scores.json"
    run("tools/eval.py", "-c", config, "--json", scores, "-o", *overrides)
    alone = json.loads(scores.read_text())
    assert f"{100 * alone['AP50']:5.1f}" in first
    assert alone["people"] == 17
