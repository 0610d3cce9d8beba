"""A folder is replaced as a whole, whenever the process is killed."""

import os
import signal
import sys

import pytest

from ppose.utils import folders
from ppose.utils.folders import atomic_folder

OLD, NEW = {"a": "old", "b": "old"}, {"a": "new", "c": "new"}
REPLACED = {"a", "b", "c"}


@pytest.fixture(params=["exchange", "two renames"])
def exchange(request, monkeypatch):
    """The two ways in which a folder takes the place of another."""
    if request.param == "two renames":
        monkeypatch.setattr(folders, "_exchanged", lambda *_: False)
    elif sys.platform != "linux":
        pytest.skip("renameat2 is Linux's")
    return request.param


def _write(folder, files):
    for name, text in files.items():
        (folder / name).write_text(text)


def _read(folder):
    return {path.name: path.read_text() for path in folder.iterdir() if path.is_file()}


@pytest.fixture
def bundle(tmp_path):
    folder = tmp_path / "place" / "bundle"
    (folder / "notes").mkdir(parents=True)
    _write(folder, OLD | {"mine": "kept"})
    _write(folder / "notes", {"deep": "kept"})
    return folder


def _replace(folder):
    with atomic_folder(folder, REPLACED) as made:
        _write(made, NEW)


def _kill_at(number):
    """SIGKILL at the given event of the file system, of those that Python reports."""
    events = {
        "os.rename",
        "os.link",
        "os.mkdir",
        "os.rmdir",
        "os.remove",
        "open",
        "shutil.copytree",
    }
    left = number

    def hook(event, _):
        nonlocal left
        if event in events or event.startswith("ctypes."):
            left -= 1
            if left == 0:
                os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(hook)


def _killed(folder, number):
    """Replaces the folder in a process that is killed at an event; whether it was."""
    process = os.fork()
    if process == 0:
        try:
            _kill_at(number)
            _replace(folder)
        finally:
            os._exit(0)
    return os.WIFSIGNALED(os.waitpid(process, 0)[1])


def test_kills_at_every_point(bundle, exchange):
    number, kept, neither = 0, set(), 0
    while _killed(bundle, number := number + 1):
        if not bundle.exists():
            neither += 1
            continue
        found = _read(bundle)
        assert found.pop("mine") == "kept"
        assert (bundle / "notes" / "deep").read_text() == "kept"
        assert found in (OLD, NEW), number
        kept.add(found["a"])
        if found == NEW:
            (bundle / "c").unlink()
            _write(bundle, OLD)
    assert number > 10
    assert kept == {"old", "new"}
    # Between the two, and before the next call puts the old one back.
    assert neither == (2 if exchange == "two renames" else 0)
    assert _read(bundle) == NEW | {"mine": "kept"}
    assert [path.name for path in bundle.parent.iterdir()] == ["bundle"]


def test_an_error_changes_nothing(bundle, exchange):
    with pytest.raises(ZeroDivisionError), atomic_folder(bundle, REPLACED) as made:
        _write(made, NEW)
        raise ZeroDivisionError
    assert _read(bundle) == OLD | {"mine": "kept"}
    assert [path.name for path in bundle.parent.iterdir()] == ["bundle"]


def test_a_new_folder_and_a_link(bundle, tmp_path, exchange):
    _replace(tmp_path / "new" / "folder")
    assert _read(tmp_path / "new" / "folder") == NEW
    assert (tmp_path / "new" / "folder").stat().st_mode == (tmp_path / "new").stat().st_mode
    (tmp_path / "link").symlink_to(bundle)
    _replace(tmp_path / "link")
    assert (tmp_path / "link").is_symlink()
    assert _read(bundle) == NEW | {"mine": "kept"}


def test_files_of_running_processes_stay(bundle):
    theirs = bundle.with_name(f".bundle.{os.getppid()}.part")
    theirs.mkdir()
    with atomic_folder(bundle, REPLACED) as made:
        _write(made, OLD)
        with atomic_folder(bundle.with_name("other"), REPLACED):
            assert made.is_dir()
    assert theirs.is_dir()
