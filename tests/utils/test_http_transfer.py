"""Transfers from a real HTTP server: resuming, retries, and refused responses."""

from __future__ import annotations

import json
import os
import socket
import threading
from pathlib import Path

import pytest
from http_server import Server, answering, serving
from one_file_server import CONTENT, SHA256, get, leftovers

from ppose.utils.checksum import Checksum
from ppose.utils.download import download
from ppose.utils.errors import DownloadError
from ppose.utils.http_transfer import check_free


def asked_ranges(server: Server) -> list[str | None]:
    return [headers.get("Range") for _, headers in server.requests]


def test_a_lost_connection_is_resumed(server, tmp_path, capsys):
    server.cuts = [3000, 4000]
    assert get(server, tmp_path / "a.bin").read_bytes() == CONTENT
    assert asked_ranges(server) == [None, "bytes=3000-", "bytes=7000-"]
    assert "lost" in capsys.readouterr().err


def test_a_later_call_resumes(server, tmp_path):
    server.cuts = [3000]
    with pytest.raises(DownloadError, match=r"lost.*1 attempts.*2\.9 KiB are kept.*run again"):
        get(server, tmp_path / "a.bin", attempts=1)
    assert not (tmp_path / "a.bin").exists()
    assert get(server, tmp_path / "a.bin").read_bytes() == CONTENT
    assert asked_ranges(server) == [None, "bytes=3000-"]


def test_failures_with_progress_do_not_count_as_attempts(server, tmp_path):
    server.cuts = [1000] * 9
    assert get(server, tmp_path / "a.bin", attempts=2).read_bytes() == CONTENT


@pytest.mark.parametrize(
    ("fault", "ranges"),
    [
        ({"ranges": False}, [None, "bytes=3000-"]),
        ({"validators": False}, [None, None]),
    ],
)
def test_starts_again_if_it_cannot_resume(server, tmp_path, fault, ranges):
    vars(server).update(fault, cuts=[3000])
    assert get(server, tmp_path / "a.bin").read_bytes() == CONTENT
    assert asked_ranges(server) == ranges


def test_resumes_without_a_validator_if_there_is_a_checksum(server, tmp_path):
    server.validators, server.cuts = False, [3000]
    get(server, tmp_path / "a.bin", checksum=Checksum("sha256", SHA256))
    assert asked_ranges(server) == [None, "bytes=3000-"]


@pytest.mark.parametrize("checks_if_range", [True, False])
@pytest.mark.parametrize("length", [2_000, 8_000, 20_000])
def test_two_versions_of_a_file_are_never_joined(server, tmp_path, checks_if_range, length):
    server.cuts, server.checks_if_range = [3000], checks_if_range
    with pytest.raises(DownloadError):
        get(server, tmp_path / "a.bin", attempts=1)
    server.files["/a.bin"] = os.urandom(length)
    assert get(server, tmp_path / "a.bin").read_bytes() == server.files["/a.bin"]
    if checks_if_range:
        assert len(server.requests) == 2


def test_a_part_from_another_url_is_not_resumed(server, tmp_path):
    server.cuts = [3000]
    with pytest.raises(DownloadError):
        get(server, tmp_path / "a.bin", attempts=1)
    server.files["/b.bin"] = CONTENT[::-1]
    download(server.url + "/b.bin", tmp_path / "a.bin")
    assert (tmp_path / "a.bin").read_bytes() == CONTENT[::-1]


@pytest.mark.parametrize("note", ["", "[]", "{}", '{"url": 1}'])
def test_a_part_with_a_damaged_note_is_not_resumed(server, tmp_path, note):
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
def test_temporary_errors_are_retried(server, tmp_path, status, capsys):
    server.statuses = [status, status]
    get(server, tmp_path / "a.bin")
    assert f"answered {status}" in capsys.readouterr().err
    assert len(server.requests) == 3


@pytest.mark.parametrize("status", [401, 403, 404, 410])
def test_permanent_errors_are_not_retried(server, tmp_path, status):
    server.statuses = [status]
    with pytest.raises(DownloadError, match=f"answered {status}.*check the URL"):
        get(server, tmp_path / "a.bin")
    assert len(server.requests) == 1
    assert leftovers(tmp_path) == []


def test_gives_up_after_the_last_attempt(server, tmp_path):
    server.statuses = [503] * 9
    with pytest.raises(DownloadError, match=r"503.*gave up after 3 attempts"):
        get(server, tmp_path / "a.bin", attempts=3)
    assert len(server.requests) == 3


def test_a_refused_connection(server, tmp_path):
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


def test_a_wrong_size_is_refused_before_the_body_is_read(server, tmp_path):
    with pytest.raises(DownloadError, match="has 10000 bytes, expected 9999"):
        get(server, tmp_path / "a.bin", size=9999)
    assert leftovers(tmp_path) == []


def test_a_full_disk_is_reported_before_the_body_is_read(server, tmp_path):
    server.length = 1 << 60
    with pytest.raises(DownloadError, match=r"1073741824\.0 GiB, but the disk of"):
        get(server, tmp_path / "a.bin")
    assert leftovers(tmp_path) == []


@pytest.mark.skipif(not Path("/dev/full").is_char_device(), reason="needs /dev/full")
def test_a_disk_that_fills_up_during_the_download(server, tmp_path):
    (tmp_path / "a.bin.part").symlink_to("/dev/full")
    with pytest.raises(DownloadError, match=r"disk is full.*run again"):
        get(server, tmp_path / "a.bin")
    assert not (tmp_path / "a.bin").exists()


def test_check_free_reports_needed_and_free_space(tmp_path):
    check_free(tmp_path, 1, "a file")
    with pytest.raises(DownloadError, match=r"a file needs 1073741824\.0 GiB.*free: free some"):
        check_free(tmp_path, 1 << 60, "a file")


@pytest.mark.parametrize("cuts", [[], [3500]])
def test_chunked_bodies(server, tmp_path, cuts):
    server.chunked, server.cuts = True, cuts
    assert get(server, tmp_path / "a.bin").read_bytes() == CONTENT


def test_a_chunked_body_must_not_exceed_the_size(server, tmp_path):
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


def test_a_web_page_is_refused(server, tmp_path):
    server.content_type = "text/html; charset=utf-8"
    with pytest.raises(DownloadError, match="web page"):
        get(server, tmp_path / "a.bin")


def test_only_redirects_to_http_are_followed(server, tmp_path):
    server.redirects = {"/r.bin": "/a.bin", "/f.bin": "ftp://127.0.0.1/a", "/l.bin": "file:///a"}
    download(server.url + "/r.bin", tmp_path / "r.bin")
    assert (tmp_path / "r.bin").read_bytes() == CONTENT
    for name in ("f.bin", "l.bin"):
        with pytest.raises(DownloadError, match=r"redirect|Redirection"):
            download(f"{server.url}/{name}", tmp_path / name)


# Servers that are made to hurt


def head(status: str, *headers: str) -> str:
    return "\r\n".join([f"HTTP/1.1 {status}", 'ETag: "1"', *headers, "", ""])


def to(address: str) -> str:
    return head("302 Found", f"Location: {address}", "Content-Length: 0")


CHUNKED = head("200 OK", "Transfer-Encoding: chunked")
CHUNK = "400\r\n" + "a" * 1024 + "\r\n"
UNASKED = head("206 Partial Content", "Content-Range: bytes 0-99/5000", "Content-Length: 100")
UNASKED = UNASKED.replace('ETag: "1"\r\n', "")
HOSTILE = {
    "unasked part": ([(UNASKED + "a" * 100, 1)], r"sent a part \(206\) though the whole file"),
    "endless body": ([(CHUNKED, 1), (CHUNK, -1)], "more than the"),
    "endless trailers": ([(CHUNKED + "1\r\na\r\n0\r\n", 1), ("a: b\r\n" * 99, -1)], "without end"),
    "endless interim": ([("HTTP/1.1 100 Continue\r\n\r\n" * 99, -1)], "without end"),
    "endless headers": ([(head("200 OK")[:-2], 1), ("a: b\r\n", -1)], "headers"),
    "endless status": ([("a" * 1000, -1)], "no connection"),
    "empty": ([(head("200 OK", "Content-Length: 0"), 1)], "an empty file"),
    "empty chunks": ([(CHUNKED + "0\r\n\r\n", 1)], "an empty file"),
    "no content": ([(head("204 No Content"), 1)], "answered 204, not"),
    "long length": ([(head("200 OK", f"Content-Length: {'9' * 5000}"), 1)], "not say how long"),
    "negative length": ([(head("200 OK", "Content-Length: -5"), 1)], "not say how long"),
    "colours": ([(head("404 \x1b[31mgone\x07"), 1)], r"404 \\x1b\[31mgone\\x07: check"),
    "to half an address": ([(to("http://[::1"), 1)], "redirects to what is not a URL"),
    "to no host": ([(to("http://a..b/c"), 1)], "redirects to what is not a URL"),
    "to itself": ([(to("/a.bin"), 1)], "302"),
    "endless redirect": (
        [(head("302 Found", "Location: /b", "Transfer-Encoding: chunked"), 1), (CHUNK, -1)],
        "without end",
    ),
    "silence": ([], "timed out"),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_replies_end_in_one_line(tmp_path, monkeypatch, capsys, name):
    reply, message = HOSTILE[name]
    monkeypatch.setattr("ppose.utils.http_transfer._UNKNOWN_LENGTH", 10_000)
    with answering([reply]) as url, pytest.raises(DownloadError, match=message) as error:
        download(f"{url}/a.bin", tmp_path / "a.bin", timeout=0.3, attempts=2, backoff=0.01)
    assert not (tmp_path / "a.bin").exists()
    for text in (str(error.value), *capsys.readouterr().err.splitlines()):
        assert text.isprintable()
        assert len(text) < 700


def whole(text: str) -> list[tuple[str, int]]:
    """The beginning of a file of ten bytes."""
    return [(head("200 OK", "Content-Length: 10") + text, 1)]


def part(span: str, text: str) -> list[tuple[str, int]]:
    given = (f"Content-Range: {span}", f"Content-Length: {len(text)}")
    return [(head("206 Partial Content", *given) + text, 1)]


@pytest.mark.parametrize(
    "span",
    [
        *("bytes 5-9/10", "bytes 4-9/20", "bytes 4-20/10", "bytes 4-3/10"),
        *("bytes 4-9", "items 4-9/10", ""),
    ],
)
def test_a_part_that_does_not_continue_is_not_taken(tmp_path, span):
    replies = [whole("abcd"), part(span, "XXXXXX"), whole("abcdefghij")]
    with answering(replies) as url:
        path = download(f"{url}/a.bin", tmp_path / "a.bin", timeout=1, backoff=0.01)
    assert path.read_bytes() == b"abcdefghij"


def test_a_part_that_is_shorter_than_the_rest_is_continued(tmp_path):
    replies = [whole("abcd"), part("bytes 4-6/10", "efg"), part("bytes 7-9/*", "hij")]
    with answering(replies) as url:
        path = download(f"{url}/a.bin", tmp_path / "a.bin", timeout=1, backoff=0.01)
    assert path.read_bytes() == b"abcdefghij"


def test_a_host_that_does_not_exist_is_not_tried_again(tmp_path, monkeypatch, capsys):
    asked = []

    def nobody(*arguments, **_):
        asked.append(arguments[0])
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", nobody)
    monkeypatch.setenv("no_proxy", "*")
    with pytest.raises(DownloadError, match=r"the host has no address \(.*Name or service"):
        download("http://nowhere.invalid/a.bin", tmp_path / "a.bin")
    assert asked == ["nowhere.invalid"]
    assert "Trying again" not in capsys.readouterr().err
