"""`make quickstart` never removes a run. The commands are recorded instead of run."""

import shutil
import subprocess
import sys

import pytest
from conftest import ROOT

RECORDER = f"""#!{sys.executable}
import sys
from pathlib import Path
with Path(__file__).with_name("commands").open("a") as file:
    print(*sys.argv[1:], file=file)
"""


@pytest.mark.skipif(shutil.which("make") is None, reason="there is no make here")
@pytest.mark.parametrize(
    ("target", "run"), [("quickstart", "RUN"), ("quickstart-bottomup", "GROUPS_RUN")]
)
@pytest.mark.parametrize("stopped", [False, True])
def test_a_run_is_continued_and_never_removed(tmp_path, target, run, stopped):
    folder = tmp_path / "run"
    (folder / "checkpoints").mkdir(parents=True)
    (folder / "train.log").touch()
    if stopped:
        (folder / "checkpoints" / "step-00000007.safetensors").touch()
    before = sorted(folder.rglob("*"))
    program = tmp_path / "ppose"
    program.write_text(RECORDER)
    program.chmod(0o755)
    (tmp_path / "installed").touch()
    settings = [f"{run}={folder}", f"BIN={tmp_path}", f"INSTALLED={tmp_path}/installed"]
    done = subprocess.run(
        ["make", target, *settings], cwd=ROOT, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert sorted(folder.rglob("*")) == before
    commands = (tmp_path / "commands").read_text().splitlines()
    assert [command.split()[0] for command in commands] == ["synthetic", "train", "eval", "infer"]
    assert ("--resume" in commands[1].split()) == stopped
