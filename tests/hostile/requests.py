"""Requests to the HTTP service: heads, bodies, forms and queries that contradict themselves."""

from __future__ import annotations

import json
import random
import socket
import threading
import time
from functools import cache
from pathlib import Path

from service_server import FakeNetwork

from hostile import images
from hostile.harness import Reader
from ppose.deploy.service import middleware, server
from ppose.deploy.service.app import make_app
from ppose.deploy.service.limits import Limits
from ppose.structures.skeleton import COCO17
from ppose.utils.errors import PposeError

_PATHS = ("/pose",) * 4 + ("/skeleton", "/healthz", "/metrics", "/", "/app.js/", "//x/..")
_QUERIES = (
    *("", "", "min_score=0.5", "min_score=nan", "max_people=1e400", "min_score=-0"),
    *("max_people=1", "boxes=[[-9,-9,1e9,1e9]]", "x=" + "y" * 900, "&" * 500, "%00=%ff"),
    *("min_score=%ud800", "a=1&" * 900),
)
_NAMES = ("image",) * 4 + ("other", "", "x" * 3000, "\ud800", "im\0age", "image[]")
_FILES = ("x.jpg", "\ud800.jpg", "a\0b.png", "../../x", "C:\\x", "\u202e.gpj", "x" * 5000, '"')
_TYPES = (
    *("image/jpeg", "image/png", "application/octet-stream", "text/plain", "", "image/\xff"),
    *("multipart/form-data", "multipart/form-data; boundary=", "multipart/mixed; boundary=b"),
    *("multipart/form-data; boundary=" + "-" * 80, "application/x-www-form-urlencoded"),
)
_HEADERS = (
    "Expect: 100-continue",
    "Content-Encoding: gzip",
    "Upgrade: websocket",
    "Connection: upgrade, close",
    "Transfer-Encoding: gzip, chunked",
    "Transfer-Encoding: chunked",
    "Content-Length: 1",
    "Host: y",
    "X-Forwarded-For: \ud800, 1.2.3.4.5, [::1",
    "X: " + "y" * 8000,
    "Cookie: a=b; " * 90,
    "bad header",
    " folded: x",
    "Range: bytes=0-" + "9" * 400,
)


def _text(text: str) -> bytes:
    return text.encode("utf-8", "surrogatepass")


def _image(rng: random.Random) -> bytes:
    chosen = images.generate(rng) if rng.random() < 0.4 else images.valid("PNG", rng.randrange(9))
    return chosen[:200_000]


def _form(rng: random.Random) -> bytes:
    parts = []
    for _ in range(rng.choice((1, 1, 1, 1, 2, 9, 40))):
        name, file = rng.choice(_NAMES), rng.choice(_FILES)
        disposition = rng.choice(
            (
                f'form-data; name="{name}"; filename="{file}"',
                f'form-data; name="image"; filename="{file}"',
                f'form-data; name="{name}"',
                f"form-data; name=image; filename*=UTF-8''%ed%a0%80{file}",
                f'form-data; filename="{file}"',
                "form-data" + "; a=b" * 300,
                "",
            )
        )
        lines = [f"Content-Disposition: {disposition}", *rng.choice(([], [], ["X: x"] * 9))]
        lined = b"\r\n--b" * 900, b"\r\n--b\r\n" * 9
        body = rng.choice((_image(rng), _image(rng), b"", *lined, b"x" * 70_000))
        parts.append(b"--b\r\n" + _text("\r\n".join(lines)) + b"\r\n\r\n" + body + b"\r\n")
    ends = (b"--b--\r\n", b"--b--\r\n", b"--b--", b"--b", b"--bb--\r\n", b"")
    return b"".join(parts) + rng.choice(ends)


def _body(rng: random.Random) -> tuple[str, bytes]:
    """A content type and a body."""
    kind = rng.randrange(5)
    if kind < 2:
        return "multipart/form-data; boundary=b", _form(rng)
    if kind == 2:
        return rng.choice(_TYPES), _form(rng)
    if kind == 3:
        boxes = [[rng.choice((-1e308, 1e308, 0, -5))] * rng.choice((3, 4))]
        text = json.dumps({"image": rng.choice(_FILES), "boxes": boxes})
        return "application/json", _text(text + rng.choice(("", "[" * 9000)))
    return rng.choice(_TYPES), _image(rng)


def _chunked(rng: random.Random, body: bytes) -> bytes:
    step = rng.choice((1, 100, 4096, len(body) + 1))
    chunks = [body[at : at + step] for at in range(0, min(len(body), 2000 * step), step)]
    sizes = [b"%x" % len(chunk) for chunk in chunks]
    if chunks and rng.random() < 0.2:
        wrong = (b"-1", b"f" * 20, b"0", b"zz", b"1;" + b"x" * 999)
        sizes[rng.randrange(len(sizes))] = rng.choice(wrong)
    coded = b"".join(b"%b\r\n%b\r\n" % pair for pair in zip(sizes, chunks, strict=True))
    return coded + rng.choice((b"0\r\n\r\n", b"0\r\nX: y\r\n\r\n", b""))


def _generate(rng: random.Random) -> bytes:
    kind, body = _body(rng)
    method = rng.choice(("POST",) * 8 + ("GET", "HEAD", "PUT", "X" * 9000, "OPTIONS"))
    target = rng.choice(_PATHS)
    if rng.random() < 0.4:
        target += "?" + rng.choice(_QUERIES)
    version = rng.choice("11111111019")
    lines = [f"{method} {target} HTTP/1.{version}", "Host: x", f"Content-Type: {kind}"]
    if rng.random() < 0.3:
        lines.append("Transfer-Encoding: chunked")
        body = _chunked(rng, body)
    if len(lines) == 3 or rng.random() < 0.1:
        wrong = rng.choice((0, 1, len(body) + 9, -1, 10**30, "0x10", "1, 2", ""))
        lines.append(f"Content-Length: {len(body) if rng.random() < 0.9 else wrong}")
    lines += rng.sample(_HEADERS, rng.choice((0, 0, 0, 1, 3)))
    data = _text("\r\n".join([*lines, "", ""])) + body
    return images.damaged(rng, data) if rng.random() < 0.15 else data


@cache
def _port() -> int:
    """Of a service in a thread that ends with the process."""
    # Requests that are not complete end soon.
    server.HEAD_SECONDS = middleware.DRAIN_SECONDS = 0.1
    app = make_app(FakeNetwork(), skeleton=COCO17, limits=Limits(upload_timeout=0.2))
    config = server.uvicorn_config(app)
    config.timeout_keep_alive = 0
    running = server.Server(config)
    bound = server.listen("127.0.0.1", 0)
    threading.Thread(target=running.run, args=([bound],), daemon=True).start()
    while not running.started:
        time.sleep(0.01)
    return bound.getsockname()[1]


def _read(path: Path) -> object:
    """Sends the request; a failure of the service is none of its answers, and others get theirs."""
    answer = _exchange(path.read_bytes())
    health = _exchange(b"GET /healthz HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
    assert health.startswith(b"HTTP/1.1 200"), health
    if not answer:
        raise PposeError("the connection was closed")
    assert answer.startswith(b"HTTP/1.1 "), answer
    status = int(answer[9:12])
    assert status < 500 or status == 501, answer[:2000]
    assert len(answer) < 30_000
    if status >= 400:
        raise PposeError(f"{status}")
    return answer


def _exchange(request: bytes) -> bytes:
    """The answer; without one, the connection was closed."""
    with socket.create_connection(("127.0.0.1", _port()), 15) as connection:
        try:
            connection.sendall(request)
            return b"".join(iter(lambda: connection.recv(1 << 16), b""))
        except ConnectionError:
            return b""


READERS = [Reader("requests", ".http", _generate, _read)]
