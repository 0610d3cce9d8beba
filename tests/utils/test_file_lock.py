"""A lock excludes other processes and leaves no file."""

import subprocess
import sys
import threading

import pytest
from conftest import ROOT

from ppose.utils.errors import DownloadError
from ppose.utils.file_lock import locked

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
