"""Replies of HTTP servers, written down as a script that a real server on this machine plays."""

from __future__ import annotations

import json
import random
import tempfile
from pathlib import Path

from http_server import answering

from hostile.harness import Reader
from ppose.utils import http_transfer
from ppose.utils.download import download

_STATUSES = (
    *("200 OK",) * 6,
    *("206 Partial Content",) * 3,
    *(
        "100 Continue",
        "204 No Content",
        "301 Moved",
        "302 Found",
        "404 Gone",
        "416 Range",
        "503 No",
    ),
    *("999", "-1 x", "200", "404 \x1b[31mred\x07", "200 " + "x" * 70_000),
)
_HEADERS = (
    "Content-Length: 10", "Content-Length: 10", "Content-Length: 4", "Content-Length: 0",
    "Content-Length: -1", "Content-Length: " + "9" * 5000, "Content-Length: 99999999999999",
    "Content-Length: ten", "Content-Range: bytes 0-9/10", "Content-Range: bytes 4-9/10",
    "Content-Range: bytes 4-9/*", "Content-Range: bytes 9-4/10", "Content-Range: bytes 4-99/10",
    "Content-Range: bytes */10", "Content-Range: " + "9" * 6000, 'ETag: "1"', 'ETag: "1"',
    'ETag: W/"2"', "ETag: \x1b[31m", "Last-Modified: now", "Transfer-Encoding: chunked",
    "Transfer-Encoding: chunked", "Transfer-Encoding: gzip, chunked", "Content-Encoding: gzip",
    "Content-Encoding: \x07", "Content-Type: text/html", "Content-Type: \xff/;;=", "no colon",
    ": empty", "a" * 70_000 + ": b", "Location: /b.bin", "Location: http://[::1", "Location: ",
    "Location: http://a..b/c", "Location: file:///etc/passwd", "Location: //127.0.0.1:99999/a",
    "Location: http://127.0.0.1:1/\x1b[31m", "Location: " + "/x" * 9000,
)  # fmt: skip
_BODIES = (
    "0123456789", "0123", "", "a\r\n0123456789\r\n0\r\n\r\n", "4\r\n0123\r\n",
    "-5\r\nabc\r\n", "ffffffffffffffff\r\nabc", "x\r\n", "4;a=b\r\n0123\r\n0\r\na: b\r\n\r\n",
    "0\r\na: b\r\n", "a" * 70_000,
)  # fmt: skip


def _reply(rng: random.Random) -> list[tuple[str, int]]:
    if rng.random() < 0.02:
        return []
    if rng.random() < 0.2:
        length = rng.choice(("Content-Length: 10", "Content-Length: 12"))
        return [(f'HTTP/1.1 200 OK\r\n{length}\r\nETag: "1"\r\n\r\n', 1), ("0123456789", 1)]
    headers = rng.sample(_HEADERS, rng.randrange(6))
    head = "\r\n".join([f"HTTP/1.1 {rng.choice(_STATUSES)}", *headers, "", ""])
    if rng.random() < 0.05:
        head = "".join(map(chr, rng.randbytes(rng.randrange(300))))
    steps = [(head, 1), (rng.choice(_BODIES), 1)]
    if rng.random() < 0.1:
        steps[rng.randrange(2)] = (rng.choice((head, *_BODIES)) * 20 or "x", -1)
    return steps


def _generate(rng: random.Random) -> bytes:
    return json.dumps([_reply(rng) for _ in range(rng.randrange(1, 5))]).encode()


def _read(path: Path) -> object:
    # As a user's command would, but with less patience.
    http_transfer._UNKNOWN_LENGTH = 1 << 20
    with (
        answering(json.loads(path.read_bytes())) as url,
        tempfile.TemporaryDirectory() as folder,
    ):
        target = Path(folder) / "a.bin"
        return download(f"{url}/a.bin", target, timeout=0.2, attempts=2, backoff=0.01)


READERS = [Reader("HTTP replies", ".json", _generate, _read)]
