"""Downloading and unpacking COCO from a local server, with damaged and unsafe archives."""

from __future__ import annotations

import dataclasses
import hashlib
import importlib.util
import io
import os
import shutil
import signal
import stat
import subprocess
import sys
import threading
import zipfile
from pathlib import Path

import pytest
import tqdm
from http_server import serving

from ppose.utils.download import DownloadError

ROOT = Path(__file__).parents[1]
SCRIPT = ROOT / "dataset" / "download_coco.py"
spec = importlib.util.spec_from_file_location("download_coco", SCRIPT)
download_coco = importlib.util.module_from_spec(spec)
sys.modules[spec.name] = download_coco
spec.loader.exec_module(download_coco)

FILES = {
    "train": {f"train2017/{i:012}.jpg": os.urandom(2000) for i in range(5)},
    "val": {f"val2017/{i:012}.jpg": os.urandom(1000) for i in range(3)},
    "annotations": {
        f"annotations/{name}_{split}2017.json": b"{}" * 500
        for name in ("person_keypoints", "instances")
        for split in ("train", "val")
    },
}


def zipped(files: dict[str | zipfile.ZipInfo, bytes]) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return buffer.getvalue()


@pytest.fixture
def coco(monkeypatch):
    """A server with small archives, and the matching table of parts."""
    archives = {name: zipped(files) for name, files in FILES.items()}
    parts = {
        name: describe(name, archives[name], sum(map(len, FILES[name].values()))) for name in FILES
    }
    monkeypatch.setattr(download_coco, "PARTS", parts)
    with serving({"/" + parts[name].url: archives[name] for name in parts}) as server:
        yield server


def describe(name: str, archive: bytes, unpacked: int):
    part = PUBLISHED[name]
    digest = hashlib.md5(archive, usedforsecurity=False).hexdigest()
    count = sum(1 for f in FILES[name] if Path(f).match(part.pattern))
    return dataclasses.replace(part, size=len(archive), md5=digest, unpacked=unpacked, count=count)


PUBLISHED = download_coco.PARTS


def replace(server, name: str, archive: bytes) -> None:
    """Replaces an archive and its entry in the table."""
    download_coco.PARTS[name] = describe(name, archive, download_coco.PARTS[name].unpacked)
    server.files["/" + PUBLISHED[name].url] = archive


def run(server, output: Path, *arguments: str) -> int:
    return download_coco.main(["--output", str(output), "--url-base", server.url, *arguments])


def tree(folder: Path) -> dict[str, bytes]:
    return {
        p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*") if p.is_file()
    }


def everything(*names: str) -> dict[str, bytes]:
    return {k: v for name in names or FILES for k, v in FILES[name].items()}


def test_downloads_everything_once(coco, tmp_path, capsys):
    assert run(coco, tmp_path / "new" / "coco") == 0
    assert tree(tmp_path / "new" / "coco") == everything()
    assert "complete" in capsys.readouterr().out
    assert run(coco, tmp_path / "new" / "coco") == 0
    assert len(coco.requests) == 3


def test_downloads_selected_parts(coco, tmp_path):
    assert run(coco, tmp_path, "--parts", "val", "annotations") == 0
    assert tree(tmp_path) == everything("val", "annotations")
    assert run(coco, tmp_path) == 0
    assert tree(tmp_path) == everything()
    assert len(coco.requests) == 3


def test_keeps_zips(coco, tmp_path):
    assert run(coco, tmp_path, "--parts", "val", "--keep-zips") == 0
    archive = coco.files["/zips/val2017.zip"]
    assert tree(tmp_path) == everything("val") | {"val2017.zip": archive}
    shutil.rmtree(tmp_path / "val2017")
    assert run(coco, tmp_path, "--parts", "val") == 0
    assert tree(tmp_path) == everything("val")
    assert len(coco.requests) == 1


def test_uses_an_existing_zip(coco, tmp_path):
    (tmp_path / "val2017.zip").write_bytes(coco.files["/zips/val2017.zip"])
    assert run(coco, tmp_path, "--parts", "val") == 0
    assert tree(tmp_path) == everything("val")
    assert coco.requests == []


@pytest.mark.parametrize("ranges", [True, False])
def test_resumes_after_a_lost_connection(coco, tmp_path, ranges):
    coco.cuts, coco.ranges = [2000], ranges
    assert run(coco, tmp_path, "--parts", "val") == 0
    assert tree(tmp_path) == everything("val")
    assert [h.get("Range") for _, h in coco.requests] == [None, "bytes=2000-"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"md5": "0" * 32}, "its md5 begins with"),
        ({"size": 9}, "bytes, expected 9"),
        ({"size": 1 << 60}, "free some space or choose a folder on another disk"),
        ({"unpacked": 1 << 60}, "free some space or choose a folder on another disk"),
        ({"url": "zips/nothing.zip"}, "answered 404"),
        ({"unpacked": 10}, "expected about 10 bytes"),
        ({"count": 4}, "has 3 files val2017/*.jpg, expected 4"),
        ({"pattern": "*.png"}, "has 0 files val2017/*.png"),
    ],
)
def test_unexpected_content_is_an_error(coco, tmp_path, capsys, change, message):
    part = download_coco.PARTS["val"]
    download_coco.PARTS["val"] = dataclasses.replace(part, **change)
    assert run(coco, tmp_path, "--parts", "val") == 1
    error = capsys.readouterr().err
    assert message in error
    assert error.splitlines()[-1].startswith("error: ")
    assert not (tmp_path / "val2017").exists()


def link(name: str, target: str) -> dict[zipfile.ZipInfo, bytes]:
    info = zipfile.ZipInfo(name)
    info.create_system = 3
    info.external_attr = (stat.S_IFLNK | 0o777) << 16
    return {info: target.encode()}


@pytest.mark.parametrize(
    "unsafe",
    [
        {"../evil": b"x"},
        {"val2017/../../evil": b"x"},
        {"/evil": b"x"},
        {"C:/evil": b"x"},
        {"val2017/C:evil": b"x"},
        {"val2017\\..\\..\\evil": b"x"},
        {"evil": b"x"},
        {"val2017evil/x": b"x"},
        link("val2017/evil", "/etc"),
        link("val2017", ".."),
    ],
)
def test_unsafe_members_are_errors(coco, tmp_path, capsys, unsafe):
    replace(coco, "val", zipped(FILES["val"] | unsafe))
    assert run(coco, tmp_path / "a" / "b", "--parts", "val") == 1
    assert "is not a plain file below val2017/" in capsys.readouterr().err
    assert list(tree(tmp_path)) == ["a/b/val2017.zip"]


def test_a_zip_bomb_is_an_error(coco, tmp_path, capsys):
    replace(coco, "val", zipped(FILES["val"] | {"val2017/bomb": bytes(10**7)}))
    assert run(coco, tmp_path, "--parts", "val") == 1
    assert "unpacks to 10003000 bytes" in capsys.readouterr().err


def test_a_zip_bomb_with_a_wrong_declared_size_is_an_error(tmp_path):
    """The declared size of a member limits how much is written."""
    content = zipped(FILES["val"] | {"val2017/bomb": bytes(10**6)})
    true, declared = (n.to_bytes(4, "little") for n in (10**6, 100))
    assert content.count(true) == 2
    (tmp_path / "a.zip").write_bytes(content.replace(true, declared))
    part = describe("val", b"", 10_000)
    with pytest.raises(DownloadError, match="damaged"):
        download_coco.unpack(tmp_path / "a.zip", tmp_path, part)
    assert list(tree(tmp_path)) == ["a.zip"]


@pytest.mark.parametrize("offset", [40, 500, -10])
def test_a_damaged_archive_is_an_error(tmp_path, offset):
    content = bytearray(zipped(FILES["val"]))
    content[offset] ^= 0xFF
    (tmp_path / "a.zip").write_bytes(content)
    with pytest.raises(DownloadError, match=r"damaged|not a plain file"):
        download_coco.unpack(tmp_path / "a.zip", tmp_path, describe("val", b"", 10_000))
    assert list(tree(tmp_path)) == ["a.zip"]


def test_duplicate_names_are_an_error(tmp_path):
    buffer = io.BytesIO(zipped(FILES["val"]))
    with zipfile.ZipFile(buffer, "a") as archive, pytest.warns(UserWarning, match="Duplicate"):
        archive.writestr(next(iter(FILES["val"])), b"x")
    (tmp_path / "a.zip").write_bytes(buffer.getvalue())
    with pytest.raises(DownloadError, match="no duplicate names"):
        download_coco.unpack(tmp_path / "a.zip", tmp_path, describe("val", b"", 10_000))


def test_an_incomplete_folder_is_an_error_and_kept(coco, tmp_path, capsys):
    (tmp_path / "val2017").mkdir()
    (tmp_path / "val2017" / "mine.jpg").write_bytes(b"mine")
    assert run(coco, tmp_path, "--parts", "val") == 1
    assert "has 1 of 3 files *.jpg" in capsys.readouterr().err
    assert tree(tmp_path) == {"val2017/mine.jpg": b"mine"}
    assert coco.requests == []


def test_files_of_a_killed_run_are_removed(coco, tmp_path):
    left = tmp_path / ".unpacking-val2017" / "val2017"
    left.mkdir(parents=True)
    (left / "000000000000.jpg").write_bytes(b"half")
    assert run(coco, tmp_path, "--parts", "val") == 0
    assert tree(tmp_path) == everything("val")


def test_a_crash_while_unpacking_leaves_no_folder(coco, tmp_path, monkeypatch):
    extract, done = download_coco.extract, []

    def interrupted(*arguments) -> None:
        if done:
            raise KeyboardInterrupt
        done.append(extract(*arguments))

    monkeypatch.setattr(download_coco, "extract", interrupted)
    assert run(coco, tmp_path, "--parts", "val") == 130
    assert list(tree(tmp_path)) == ["val2017.zip"]
    monkeypatch.setattr(download_coco, "extract", extract)
    assert run(coco, tmp_path, "--parts", "val") == 0
    assert tree(tmp_path) == everything("val")
    assert len(coco.requests) == 1


def test_concurrent_runs(coco, tmp_path):
    codes: list[int] = []
    threads = [threading.Thread(target=lambda: codes.append(run(coco, tmp_path))) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert codes == [0, 0]
    assert tree(tmp_path) == everything()
    assert len(coco.requests) == 3


def test_a_wrong_url_is_an_error(tmp_path, capsys):
    arguments = ["--output", str(tmp_path), "--url-base", "ftp://h", "--parts", "annotations"]
    assert download_coco.main(arguments) == 1
    assert "cannot read 'ftp'" in capsys.readouterr().err


def test_peak_bytes(coco, tmp_path):
    train, val = (dataclasses.replace(PUBLISHED["val"], size=s, unpacked=u, url=f"{s}.zip")
                  for s, u in ((100, 120), (10, 20)))  # fmt: skip
    assert download_coco.peak_bytes(tmp_path, [train, val], keep_zips=False) == 220
    assert download_coco.peak_bytes(tmp_path, [train, val], keep_zips=True) == 250
    (tmp_path / "100.zip.part").write_bytes(bytes(30))
    assert download_coco.peak_bytes(tmp_path, [train, val], keep_zips=False) == 190


def command(*arguments: str) -> subprocess.Popen:
    """Starts the script with a Python that has tqdm, but not ppose."""
    site_packages = str(Path(tqdm.__file__).parents[1])
    return subprocess.Popen(
        [sys.executable, "-S", str(SCRIPT), *arguments],
        cwd="/",
        env=os.environ | {"PYTHONPATH": site_packages},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def test_help_text():
    process = command("--help")
    text, _ = process.communicate(timeout=30)
    assert process.returncode == 0
    for word in ("annotations", "resume", "40 GB", "--keep-zips", "--parts", "examples:"):
        assert word in text


def test_the_command_checks_the_archive_size(tmp_path):
    with serving({"/annotations/annotations_trainval2017.zip": b"other"}) as server:
        process = command(
            *("--output", str(tmp_path), "--url-base", server.url, "--parts", "annotations")
        )
        _, error = process.communicate(timeout=30)
    assert process.returncode == 1
    assert "has 5 bytes, expected 252907541" in error
    assert "Traceback" not in error


def test_an_interrupted_command_can_resume(tmp_path):
    with serving({"/annotations/annotations_trainval2017.zip": b"start"}) as server:
        server.length = PUBLISHED["annotations"].size
        server.block = threading.Event()
        process = command(
            *("--output", str(tmp_path), "--url-base", server.url, "--parts", "annotations")
        )
        while not list(tmp_path.glob("*.part")):
            assert process.poll() is None
        process.send_signal(signal.SIGINT)
        _, error = process.communicate(timeout=30)
        server.block.set()
    assert process.returncode == 130
    assert error == "\nInterrupted: run again to resume.\n"
    assert sorted(p.name.partition(".zip")[2] for p in tmp_path.iterdir()) == [
        ".part",
        ".part.json",
    ]
