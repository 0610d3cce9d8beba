"""A lock excludes other processes and leaves no file."""

import os
import platform
import re
import signal
import subprocess
import sys
import threading

import pytest
from conftest import ROOT

from ppose.utils.errors import DownloadError
from ppose.utils.file_lock import InUseError, claimed, locked

WAIT = """
import sys
from pathlib import Path
from ppose.utils.file_lock import locked
with locked(Path(sys.argv[1])):
    print("locked")
"""


def test_another_process_waits_and_says_so(tmp_path):
    target = tmp_path / "a.bin"
    command = [sys.executable, "-c", WAIT, str(target)]
    with locked(target):
        other = subprocess.Popen(
            command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        assert "waiting" in other.stderr.readline()
        assert other.poll() is None
    output, _ = other.communicate(timeout=30)
    assert output == "locked\n"
    assert list(tmp_path.iterdir()) == []


def test_threads_exclude_each_other(tmp_path):
    inside, most = [], []

    def work():
        with locked(tmp_path / "a.bin"):
            inside.append(1)
            most.append(len(inside))
            inside.pop()

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert most == [1, 1, 1, 1]


def test_a_disk_without_locks(tmp_path, monkeypatch):
    def refuse(file, operation):
        raise OSError(38, "Function not implemented")

    monkeypatch.setattr("fcntl.flock", refuse)
    with pytest.raises(DownloadError, match=r"cannot lock .*a\.bin\.lock.*supports locks"):
        locked(tmp_path / "a.bin").__enter__()


CLAIM = """
import os, sys, time
from pathlib import Path
from ppose.utils.file_lock import claimed
with claimed(Path(sys.argv[1])):
    # A process for the data outlives the one that is killed.
    if os.fork() == 0:
        sys.stdout.close()
        time.sleep(30)
        os._exit(0)
    print("claimed", flush=True)
    time.sleep(30)
"""


@pytest.fixture
def claiming(tmp_path):
    """A process, in a group of its own, that has claimed `run` of a folder."""
    command = [sys.executable, "-c", CLAIM, str(tmp_path / "folder" / "run")]
    process = subprocess.Popen(
        command, cwd=ROOT, stdout=subprocess.PIPE, text=True, start_new_session=True
    )
    assert process.stdout.readline() == "claimed\n"
    yield process
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()


def test_a_claim_is_refused_while_another_process_has_it(claiming, tmp_path):
    target = tmp_path / "folder" / "run"
    with pytest.raises(InUseError) as error:
        claimed(target).__enter__()
    who = rf"process {claiming.pid} on {platform.node()} since 2\d\d\d-.*:"
    assert re.search(who, str(error.value))
    assert str(target.parent) in str(error.value)


def test_a_killed_process_claims_nothing(claiming, tmp_path):
    claiming.kill()
    claiming.wait()
    with claimed(tmp_path / "folder" / "run"):
        pass
    assert list((tmp_path / "folder").iterdir()) == []


def test_a_claim_within_a_process_is_refused_too(tmp_path):
    with claimed(tmp_path / "a" / "run"), pytest.raises(InUseError, match=f"{os.getpid()} on"):
        claimed(tmp_path / "a" / "run").__enter__()
    assert list(tmp_path.iterdir()) == [], "a folder where nothing came to be"


def test_a_claim_on_a_disk_without_locks_says_so(tmp_path, monkeypatch, capsys):
    def refuse(file, operation):
        raise OSError(38, "Function not implemented")

    monkeypatch.setattr("fcntl.flock", refuse)
    with claimed(tmp_path / "run"):
        pass
    assert "a second process would not be noticed" in capsys.readouterr().err
