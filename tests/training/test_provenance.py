import json
import subprocess
import sys

import numpy as np
import paddle

from ppose.training.provenance import git_state, provenance
from ppose.utils.cpu import cpu_name


def git(folder, *arguments):
    identity = ["-c", "user.name=A", "-c", "user.email=a@b.c"]
    done = subprocess.run(
        ["git", *identity, *arguments], cwd=folder, check=True, capture_output=True, text=True
    )
    return done.stdout.strip()


def test_what_a_start_says():
    found = provenance()
    assert json.loads(json.dumps(found)) == found
    assert found["versions"]["paddle"] == paddle.__version__
    assert found["versions"]["numpy"] == np.__version__
    assert found["command"].startswith(sys.orig_argv[0])
    assert found["threads"] >= 1 and found["cpu"] == cpu_name() != ""


def test_git_says_commit_and_changes(tmp_path):
    checkout = tmp_path / "checkout"
    package = checkout / "package"
    package.mkdir(parents=True)
    code = package / "code.py"
    code.write_text("a = 1\n")
    git(checkout, "init")
    assert git_state(package) is None  # not yet part of it
    git(checkout, "add", ".")
    git(checkout, "commit", "-m", "first")
    commit = git(checkout, "rev-parse", "HEAD")
    assert git_state(package) == {"commit": commit, "dirty": False}
    code.write_text("a = 2\n")
    assert git_state(package) == {"commit": commit, "dirty": True}


def test_no_checkout_is_nobody(tmp_path):
    assert git_state(tmp_path) is None


def test_a_package_inside_somebodys_checkout_is_not_theirs(tmp_path):
    git(tmp_path, "init")
    (tmp_path / "own.py").write_text("")
    git(tmp_path, "add", ".")
    git(tmp_path, "commit", "-m", "theirs")
    installed = tmp_path / "venv" / "ppose"
    installed.mkdir(parents=True)
    (installed / "__init__.py").write_text("")
    assert git_state(installed) is None


def test_without_git_there_is_no_commit(tmp_path, monkeypatch):
    git(tmp_path, "init")
    monkeypatch.setenv("PATH", str(tmp_path))
    assert git_state(tmp_path) is None
