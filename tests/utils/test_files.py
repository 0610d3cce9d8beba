import errno
import os
import resource
import stat
import subprocess
import sys
import time
from contextlib import contextmanager

import pytest

from ppose.utils.errors import WriteError
from ppose.utils.files import RecordFile, atomic_write, check_writable, remove_leftovers


def write(path, text):
    with atomic_write(path) as partial:
        partial.write_text(text)


def test_a_write_is_atomic(tmp_path):
    path = tmp_path / "new" / "a.txt"
    with atomic_write(path) as partial:
        partial.write_text("first")
        assert not path.exists()
    write(path, "second")
    assert path.read_text() == "second"
    assert list(path.parent.iterdir()) == [path]


def test_an_error_in_the_block_keeps_the_old_file(tmp_path):
    write(tmp_path / "a.txt", "first")
    with pytest.raises(RuntimeError), atomic_write(tmp_path / "a.txt") as partial:
        partial.write_text("half")
        raise RuntimeError
    assert (tmp_path / "a.txt").read_text() == "first"
    assert list(tmp_path.iterdir()) == [tmp_path / "a.txt"]


def test_the_file_is_synced_before_the_rename_and_the_folder_after_it(tmp_path, monkeypatch):
    path, synced, fsync = tmp_path / "a.txt", [], os.fsync

    def recorded(handle):
        is_folder = stat.S_ISDIR(os.fstat(handle).st_mode)
        synced.append(("folder" if is_folder else "file", path.exists()))
        fsync(handle)

    monkeypatch.setattr(os, "fsync", recorded)
    write(path, "text")
    assert synced == [("file", False), ("folder", True)]


def test_a_relative_path_survives_a_change_of_directory(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with atomic_write("a.txt") as partial:
        partial.write_text("text")
        (tmp_path / "other").mkdir()
        monkeypatch.chdir(tmp_path / "other")
    assert (tmp_path / "a.txt").read_text() == "text"


def test_check_writable_leaves_no_file(tmp_path):
    check_writable(tmp_path / "new" / "a.txt")
    assert list((tmp_path / "new").iterdir()) == []
    (tmp_path / "file").touch()
    with pytest.raises(OSError, match="file"):
        check_writable(tmp_path / "file" / "a.txt")


@pytest.fixture
def ended():
    """The id of a process that has ended."""
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    return process.pid


def leftover(folder, name, process, silent=0.0):
    path = folder / f".{name}.{process}.part"
    path.write_bytes(b"half")
    os.utime(path, (time.time() - silent,) * 2)
    return path


def test_leftovers_of_ended_processes_are_removed(tmp_path, ended):
    left = leftover(tmp_path, "a.txt", ended)
    remove_leftovers(tmp_path)
    assert not left.exists()


def test_the_file_of_a_running_process_is_kept_for_an_hour(tmp_path):
    running = os.getppid()
    recent = leftover(tmp_path, "a.txt", running, silent=600)
    old = leftover(tmp_path, "b.txt", running, silent=7200)
    remove_leftovers(tmp_path)
    assert recent.exists()
    assert not old.exists()


def test_leftovers_of_an_earlier_process_with_the_same_id_are_removed(tmp_path):
    """In a container, a restarted program often gets the same process id."""
    left = leftover(tmp_path, "a.txt", os.getpid())
    with atomic_write(tmp_path / "b.txt") as partial:
        partial.write_text("text")
        remove_leftovers(tmp_path)
        assert not left.exists()
        assert partial.exists()
    assert (tmp_path / "b.txt").read_text() == "text"


def test_only_files_that_match_the_pattern_are_removed(tmp_path, ended):
    mine = leftover(tmp_path, "step-1.safetensors", ended)
    others = [
        leftover(tmp_path, "best.safetensors", ended),
        leftover(tmp_path, "step-1.safetensors", "x"),
        leftover(tmp_path, "step-1.json", ended),
        tmp_path / f"step-1.safetensors.{ended}.part",
    ]
    others[-1].touch()
    remove_leftovers(tmp_path, "step-*.safetensors")
    assert not mine.exists()
    assert all(path.exists() for path in others)


def test_an_impossible_process_id_and_a_missing_folder(tmp_path):
    left = leftover(tmp_path, "a.txt", 10**30)
    remove_leftovers(tmp_path)
    assert not left.exists()
    remove_leftovers(tmp_path / "missing")


@contextmanager
def file_size_limit(size):
    """Files of this process may have `size` bytes."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_an_error_names_the_file_and_bytes(tmp_path):
    write(tmp_path / "a.txt", "first")
    with pytest.raises(WriteError) as error, file_size_limit(1000):
        write(tmp_path / "a.txt", "x" * 2000)
    assert str(error.value) == (
        f"{tmp_path}/a.txt: cannot be written: File too large, after 1,000 bytes; see 'ulimit -f' "
        "and the file system"
    )
    assert error.value.errno == errno.EFBIG
    assert (tmp_path / "a.txt").read_text() == "first"
    assert list(tmp_path.iterdir()) == [tmp_path / "a.txt"]


def test_an_error_about_another_file_is_kept(tmp_path):
    with pytest.raises(FileNotFoundError, match="elsewhere"), atomic_write(tmp_path / "a.txt"):
        (tmp_path / "elsewhere").read_text()


def test_the_longest_name_can_be_written(tmp_path):
    for name in ("é" * 127, os.fsdecode(b"\xff" * 255)):
        write(tmp_path / name, "text")
    assert len(list(tmp_path.iterdir())) == 2


@pytest.mark.parametrize(("start", "end", "separator"), [("", "", ""), ("[\n", "]\n", ",")])
def test_a_file_of_records_is_whole_after_each(tmp_path, start, end, separator):
    path = tmp_path / "new" / "a.json"
    write(path, "old")
    file, records = RecordFile(path, start, end, separator), []
    for size in (10, 1, 300, 500, 5):
        whole = start + separator.join(records) + end
        assert path.read_text() == whole
        record = f'"{size * "x"}"\n'
        with file_size_limit(700):
            if len(whole + separator + record) > 700:
                with pytest.raises(WriteError, match=r"a\.json: .* after 700 bytes"):
                    file.add(record)
            else:
                file.add(record)
                records.append(record)
    file.close()
    assert path.read_text() == start + separator.join(records) + end
    assert len(records) == 4
