"""Downloads to a file and into the cache."""

from __future__ import annotations

import subprocess
import sys
import threading
from pathlib import Path

import pytest
from one_file_server import CONTENT, SHA256, get, leftovers

from ppose.utils.download import (
    AddressError,
    Checksum,
    DownloadError,
    cache_folder,
    download,
    fetch,
)


def test_a_file_is_downloaded_once_and_no_temporary_file_is_left(server, tmp_path):
    target = tmp_path / "new" / "a.bin"
    checksum = Checksum("sha256", SHA256)
    assert get(server, target, size=len(CONTENT), checksum=checksum).read_bytes() == CONTENT
    get(server, target, size=len(CONTENT), checksum=checksum)
    assert len(server.requests) == 1
    assert leftovers(target.parent) == ["a.bin"]


def test_a_target_of_the_wrong_size_is_replaced(server, tmp_path, capsys):
    (tmp_path / "a.bin").write_bytes(b"old")
    get(server, tmp_path / "a.bin", size=len(CONTENT))
    assert (tmp_path / "a.bin").read_bytes() == CONTENT
    assert "3 bytes, expected 10000" in capsys.readouterr().err


@pytest.mark.parametrize(
    "url",
    [
        *("ftp://h/a", "file:///a", "data://x", "http:///a", "http://u:p@h/a", "http://[::1/a"),
        *("http://a..b/c", f"http://{'a' * 64}.b/c", "http://a:b/c", "http://a:99999/c"),
        "http://a/\ud800",
    ],
)
def test_other_urls_are_refused(tmp_path, url):
    with pytest.raises(ValueError, match="URL"):
        download(url, tmp_path / "a")
    with pytest.raises(ValueError, match="URL"):
        fetch(url, tmp_path)


def test_several_processes_download_a_file_once(server, tmp_path):
    server.block = threading.Event()
    code = "import sys; from ppose.utils.download import download; download(*sys.argv[1:])"
    command = [sys.executable, "-c", code, server.url + "/a.bin", str(tmp_path / "a.bin")]
    root = Path(__file__).parents[2]
    running = [subprocess.Popen(command, cwd=root, stderr=subprocess.PIPE) for _ in range(3)]
    # Released only after two of them have printed that they wait.
    said = [threading.Thread(target=p.stderr.readline) for p in running]
    for thread in said:
        thread.start()
    while sum(t.is_alive() for t in said) > 1:
        assert all(p.poll() is None for p in running)
    server.block.set()
    assert [p.wait(20) for p in running] == [0, 0, 0]
    for process in running:
        process.stderr.close()
    assert (tmp_path / "a.bin").read_bytes() == CONTENT
    assert len(server.requests) == 1
    assert leftovers(tmp_path) == ["a.bin"]


def test_fetch_caches_by_url(server, tmp_path):
    server.files["/other/a.bin"] = b"other"
    first, again = (fetch(server.url + "/a.bin", tmp_path) for _ in range(2))
    other = fetch(server.url + "/other/a.bin", tmp_path)
    assert first == again != other
    assert (first.read_bytes(), other.read_bytes()) == (CONTENT, b"other")
    assert first.name == "a.bin"
    assert len(server.requests) == 2


def test_fetch_uses_a_read_only_cache(server, tmp_path):
    cached = fetch(server.url + "/a.bin", tmp_path)
    cached.parent.chmod(0o500)
    try:
        assert fetch(server.url + "/a.bin", tmp_path) == cached
    finally:
        cached.parent.chmod(0o700)


@pytest.mark.parametrize("digits", [8, 16, 64])
def test_fetch_checks_the_digest_in_the_name(server, tmp_path, digits):
    assert Checksum.in_name(f"a-{SHA256[:digits]}.bin") is not None or SHA256[:8].isdecimal()
    server.files = {f"/a-{SHA256[:digits]}.bin": CONTENT, "/a-0123abcd.bin": CONTENT}
    assert fetch(f"{server.url}/a-{SHA256[:digits]}.bin", tmp_path).read_bytes() == CONTENT
    with pytest.raises(DownloadError, match="expected 0123abcd"):
        fetch(f"{server.url}/a-0123abcd.bin", tmp_path)
    fetch(f"{server.url}/a-0123abcd.bin", tmp_path, sha256=SHA256.upper())


def test_fetch_returns_local_paths(tmp_path, monkeypatch):
    (tmp_path / "a.bin").write_bytes(CONTENT)
    monkeypatch.setenv("HOME", str(tmp_path))
    assert fetch("~/a.bin") == fetch(tmp_path / "a.bin", sha256=SHA256) == tmp_path / "a.bin"
    with pytest.raises(DownloadError, match="sha256"):
        fetch(tmp_path / "a.bin", sha256="0" * 64)


def test_fetch_reports_the_missing_part_of_a_path(tmp_path, monkeypatch):
    (tmp_path / "hrnet_w32.pdparams").touch()
    monkeypatch.chdir(tmp_path)
    with pytest.raises(FileNotFoundError) as error:
        fetch("hrnet_w23.pdparams")
    assert str(tmp_path / "hrnet_w23.pdparams") in str(error.value)
    assert "near names there: hrnet_w32.pdparams" in str(error.value)
    with pytest.raises(FileNotFoundError, match=r"wights/deep/a\.bin: .* has no 'wights'"):
        fetch("wights/deep/a.bin")
    with pytest.raises(FileNotFoundError, match="is a folder"):
        fetch(tmp_path)
    with pytest.raises(ValueError, match="not as a Path"):
        fetch(Path("https://example.com/a.bin"))


def test_a_url_must_end_in_a_file_name(tmp_path):
    with pytest.raises(ValueError, match="no file name"):
        fetch("https://example.com/folder/", tmp_path)


@pytest.mark.parametrize(
    ("environment", "folder"),
    [
        ({"PPOSE_CACHE": "here"}, Path("here")),
        ({"XDG_CACHE_HOME": "xdg"}, Path("xdg/ppose/weights")),
        ({"HOME": "home"}, Path("home/.cache/ppose/weights")),
    ],
)
def test_cache_folder(monkeypatch, environment, folder):
    for name in ("PPOSE_CACHE", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert cache_folder() == folder


def test_a_home_folder_that_nobody_has(tmp_path, monkeypatch):
    with pytest.raises(AddressError, match="no such home folder"):
        fetch("~nobody-of-that-name/a.bin")
    monkeypatch.setenv("PPOSE_CACHE", "~nobody-of-that-name/a")
    with pytest.raises(AddressError, match="no such home folder"):
        cache_folder()
