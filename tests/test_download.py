from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from http_server import Server, serving
from hypothesis import given
from hypothesis import strategies as st

from ppose.download import Checksum, DownloadError, cache_folder, check_free, download, fetch

CONTENT = os.urandom(10_000)
SHA256 = hashlib.sha256(CONTENT).hexdigest()


@pytest.fixture
def server():
    with serving({"/a.bin": CONTENT}) as running:
        yield running


def get(server: Server, target: Path, **options) -> Path:
    return download(server.url + "/a.bin", target, backoff=0.01, timeout=5, **options)


def leftovers(folder: Path) -> list[str]:
    return sorted(p.name for p in folder.iterdir())


def asked_ranges(server: Server) -> list[str | None]:
    return [headers.get("Range") for _, headers in server.requests]


def test_downloads_once_and_leaves_nothing_beside(server, tmp_path):
    target = tmp_path / "new" / "a.bin"
    checksum = Checksum("sha256", SHA256)
    assert get(server, target, size=len(CONTENT), checksum=checksum).read_bytes() == CONTENT
    get(server, target, size=len(CONTENT), checksum=checksum)
    assert len(server.requests) == 1
    assert leftovers(target.parent) == ["a.bin"]


def test_resumes_where_the_connection_was_cut(server, tmp_path, capsys):
    server.cuts = [3000, 4000]
    assert get(server, tmp_path / "a.bin").read_bytes() == CONTENT
    assert asked_ranges(server) == [None, "bytes=3000-", "bytes=7000-"]
    assert "cut" in capsys.readouterr().err


def test_a_later_call_resumes(server, tmp_path):
    server.cuts = [3000]
    with pytest.raises(DownloadError, match=r"cut.*1 attempts.*2\.9 KiB are kept.*run again"):
        get(server, tmp_path / "a.bin", attempts=1)
    assert not (tmp_path / "a.bin").exists()
    assert get(server, tmp_path / "a.bin").read_bytes() == CONTENT
    assert asked_ranges(server) == [None, "bytes=3000-"]


def test_cuts_with_progress_do_not_use_up_the_attempts(server, tmp_path):
    server.cuts = [1000] * 9
    assert get(server, tmp_path / "a.bin", attempts=2).read_bytes() == CONTENT


@pytest.mark.parametrize(
    ("fault", "ranges"),
    [
        ({"ranges": False}, [None, "bytes=3000-"]),
        ({"validators": False}, [None, None]),
    ],
)
def test_starts_again_when_it_cannot_resume(server, tmp_path, fault, ranges):
    vars(server).update(fault, cuts=[3000])
    assert get(server, tmp_path / "a.bin").read_bytes() == CONTENT
    assert asked_ranges(server) == ranges


def test_resumes_without_validator_when_a_checksum_guards(server, tmp_path):
    server.validators, server.cuts = False, [3000]
    get(server, tmp_path / "a.bin", checksum=Checksum("sha256", SHA256))
    assert asked_ranges(server) == [None, "bytes=3000-"]


@pytest.mark.parametrize("checks_if_range", [True, False])
@pytest.mark.parametrize("length", [2_000, 8_000, 20_000])
def test_never_joins_two_versions(server, tmp_path, checks_if_range, length):
    server.cuts, server.checks_if_range = [3000], checks_if_range
    with pytest.raises(DownloadError):
        get(server, tmp_path / "a.bin", attempts=1)
    server.files["/a.bin"] = os.urandom(length)
    assert get(server, tmp_path / "a.bin").read_bytes() == server.files["/a.bin"]
    if checks_if_range:
        assert len(server.requests) == 2


def test_a_part_of_another_address_is_not_resumed(server, tmp_path):
    server.cuts = [3000]
    with pytest.raises(DownloadError):
        get(server, tmp_path / "a.bin", attempts=1)
    server.files["/b.bin"] = CONTENT[::-1]
    download(server.url + "/b.bin", tmp_path / "a.bin")
    assert (tmp_path / "a.bin").read_bytes() == CONTENT[::-1]


@pytest.mark.parametrize("note", ["", "[]", "{}", '{"url": 1}'])
def test_a_damaged_note_is_not_trusted(server, tmp_path, note):
    (tmp_path / "a.bin.part").write_bytes(b"x" * 3000)
    (tmp_path / "a.bin.part.json").write_text(note)
    assert get(server, tmp_path / "a.bin").read_bytes() == CONTENT


def test_a_complete_part_needs_no_request(server, tmp_path):
    (tmp_path / "a.bin.part").write_bytes(CONTENT)
    note = {"url": server.url + "/a.bin", "validator": '"x"', "size": len(CONTENT)}
    (tmp_path / "a.bin.part.json").write_text(json.dumps(note))
    assert get(server, tmp_path / "a.bin").read_bytes() == CONTENT
    assert server.requests == []


@pytest.mark.parametrize("status", [429, 500, 503])
def test_retries_a_busy_server(server, tmp_path, status, capsys):
    server.statuses = [status, status]
    get(server, tmp_path / "a.bin")
    assert f"answered {status}" in capsys.readouterr().err
    assert len(server.requests) == 3


@pytest.mark.parametrize("status", [401, 403, 404, 410])
def test_does_not_retry_a_refusal(server, tmp_path, status):
    server.statuses = [status]
    with pytest.raises(DownloadError, match=f"answered {status}.*check the address"):
        get(server, tmp_path / "a.bin")
    assert len(server.requests) == 1
    assert leftovers(tmp_path) == []


def test_gives_up_after_the_attempts(server, tmp_path):
    server.statuses = [503] * 9
    with pytest.raises(DownloadError, match=r"503.*gave up after 3 attempts"):
        get(server, tmp_path / "a.bin", attempts=3)
    assert len(server.requests) == 3


def test_nobody_listens(server, tmp_path):
    with serving({}) as gone:
        pass
    with pytest.raises(DownloadError, match="no connection"):
        get(gone, tmp_path / "a.bin", attempts=2)


def test_a_silent_server_times_out(server, tmp_path):
    server.block = threading.Event()
    with pytest.raises(DownloadError, match="timed out"):
        download(server.url + "/a.bin", tmp_path / "a.bin", timeout=0.1, attempts=1)
    server.block.set()


def test_a_wrong_checksum_leaves_no_file(server, tmp_path):
    with pytest.raises(DownloadError, match=f"sha256 begins with {SHA256}.*expected 00000000"):
        get(server, tmp_path / "a.bin", checksum=Checksum("sha256", "0" * 64))
    assert leftovers(tmp_path) == []


def test_a_wrong_size_is_refused_before_the_body(server, tmp_path):
    with pytest.raises(DownloadError, match="has 10000 bytes, expected 9999"):
        get(server, tmp_path / "a.bin", size=9999)
    assert leftovers(tmp_path) == []


def test_a_wrong_target_is_replaced(server, tmp_path, capsys):
    (tmp_path / "a.bin").write_bytes(b"old")
    get(server, tmp_path / "a.bin", size=len(CONTENT))
    assert (tmp_path / "a.bin").read_bytes() == CONTENT
    assert "3 bytes, expected 10000" in capsys.readouterr().err


def test_a_full_disk_is_noticed_before_the_body(server, tmp_path):
    server.length = 1 << 60
    with pytest.raises(DownloadError, match=r"1073741824\.0 GiB, but the disk of"):
        get(server, tmp_path / "a.bin")
    assert leftovers(tmp_path) == []


@pytest.mark.skipif(not Path("/dev/full").is_char_device(), reason="needs /dev/full")
def test_a_disk_that_fills_up_meanwhile(server, tmp_path):
    (tmp_path / "a.bin.part").symlink_to("/dev/full")
    with pytest.raises(DownloadError, match=r"disk is full.*run again"):
        get(server, tmp_path / "a.bin")
    assert not (tmp_path / "a.bin").exists()


def test_check_free_names_both_amounts(tmp_path):
    check_free(tmp_path, 1, "a file")
    with pytest.raises(DownloadError, match=r"a file needs 1073741824\.0 GiB.*free: free some"):
        check_free(tmp_path, 1 << 60, "a file")


@pytest.mark.parametrize("cuts", [[], [3500]])
def test_chunked_bodies(server, tmp_path, cuts):
    server.chunked, server.cuts = True, cuts
    assert get(server, tmp_path / "a.bin").read_bytes() == CONTENT


def test_a_chunked_body_may_not_exceed_the_size(server, tmp_path):
    server.chunked = True
    with pytest.raises(DownloadError, match="more than the 3000 bytes"):
        get(server, tmp_path / "a.bin", size=3000)
    assert not (tmp_path / "a.bin").exists()


def test_a_body_of_unknown_length_needs_a_checksum(server, tmp_path):
    server.length = -1
    with pytest.raises(DownloadError, match="does not say how long"):
        get(server, tmp_path / "a.bin")
    get(server, tmp_path / "a.bin", checksum=Checksum("sha256", SHA256))
    assert (tmp_path / "a.bin").read_bytes() == CONTENT


def test_a_web_page_is_not_a_file(server, tmp_path):
    server.content_type = "text/html; charset=utf-8"
    with pytest.raises(DownloadError, match="web page"):
        get(server, tmp_path / "a.bin")


def test_follows_redirects_to_http_only(server, tmp_path):
    server.redirects = {"/r.bin": "/a.bin", "/f.bin": "ftp://127.0.0.1/a", "/l.bin": "file:///a"}
    download(server.url + "/r.bin", tmp_path / "r.bin")
    assert (tmp_path / "r.bin").read_bytes() == CONTENT
    for name in ("f.bin", "l.bin"):
        with pytest.raises(DownloadError, match=r"redirect|Redirection"):
            download(f"{server.url}/{name}", tmp_path / name)


@pytest.mark.parametrize(
    "url", ["ftp://h/a", "file:///a", "data://x", "http:///a", "http://u:p@h/a", "http://[::1/a"]
)
def test_other_addresses_are_refused(tmp_path, url):
    with pytest.raises(ValueError, match="address"):
        download(url, tmp_path / "a")
    with pytest.raises(ValueError, match="address"):
        fetch(url, tmp_path)


def test_processes_do_not_disturb_one_another(server, tmp_path):
    server.block = threading.Event()
    code = "import sys; from ppose.download import download; download(*sys.argv[1:])"
    command = [sys.executable, "-c", code, server.url + "/a.bin", str(tmp_path / "a.bin")]
    root = Path(__file__).parents[1]
    running = [subprocess.Popen(command, cwd=root, stderr=subprocess.PIPE) for _ in range(3)]
    # Released only when two of them have said that they wait.
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


def test_fetch_caches_by_address(server, tmp_path):
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


@pytest.mark.parametrize("name", ["hrnet-20230101.pdparams", "a-1a2b3c.bin", "hrnet_w32.pdparams"])
def test_names_without_a_digest(name):
    assert Checksum.in_name(name) is None


@given(st.binary(max_size=300), st.sampled_from(["md5", "sha256"]), st.integers(8, 32))
def test_checksum_prefixes(tmp_path_factory, content, algorithm, digits):
    path = tmp_path_factory.getbasetemp() / "content"
    path.write_bytes(content)
    digest = hashlib.new(algorithm, content).hexdigest()
    assert Checksum(algorithm, digest[:digits]).of(path) == digest[:digits]


@pytest.mark.parametrize("digest", ["", "1234567", "g" * 8, "0" * 65])
def test_malformed_checksums(digest):
    with pytest.raises(ValueError, match="8 to 64"):
        Checksum("sha256", digest)


def test_fetch_returns_local_paths(tmp_path, monkeypatch):
    (tmp_path / "a.bin").write_bytes(CONTENT)
    monkeypatch.setenv("HOME", str(tmp_path))
    assert fetch("~/a.bin") == fetch(tmp_path / "a.bin", sha256=SHA256) == tmp_path / "a.bin"
    with pytest.raises(DownloadError, match="sha256"):
        fetch(tmp_path / "a.bin", sha256="0" * 64)


def test_fetch_names_what_is_missing(tmp_path, monkeypatch):
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


def test_an_address_must_name_a_file(tmp_path):
    with pytest.raises(ValueError, match="names no file"):
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
